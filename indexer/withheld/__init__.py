"""Pictures whose pixels go to nobody, while the lead that they belong to lives on.

``shown`` is the one place where stored bytes become pixels for people, and asks ``checks``;
``lists`` keeps the hashes that agencies supply; ``rows`` withholds and settles; ``notices`` tells
the designated role. What is stored stays stored: vectors stay in the gallery, bytes stay sealed.
"""
