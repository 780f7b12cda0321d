"""The command line: ``homeward ...``."""

from service.cli.main import main

__all__ = ["main"]
