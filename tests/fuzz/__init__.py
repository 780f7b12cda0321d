"""Fuzzers; ``make fuzz`` runs them, the test suite only starts them briefly."""
