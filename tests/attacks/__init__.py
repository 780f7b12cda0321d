"""Attacks, each tried and refused, named after what it tries."""
