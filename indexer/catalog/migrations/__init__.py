"""The one migration history of the catalog."""
