"""Packs in InsightFace's format: SCRFD detectors and ArcFace recognisers from a folder."""
