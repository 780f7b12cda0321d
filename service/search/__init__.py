"""Probe a gallery, rank what comes back and say what a score is worth. Knows no HTTP."""
