"""Homeward as real processes under load: killed, filled, measured. See ``make soak``."""
