"""What people and scrapers touch: the HTTP interface, the pages and the command line."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("homeward")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0.0.0"
