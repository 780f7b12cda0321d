"""One module for each image format, and what they share; ``models.decode`` is the door."""
