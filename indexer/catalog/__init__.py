"""The catalog: tables, one migration history, sessions; the truth of all but the originals."""

from indexer.catalog.engine import Catalog, open_catalog

__all__ = ["Catalog", "open_catalog"]
