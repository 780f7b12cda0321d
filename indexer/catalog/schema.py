"""All tables of the catalog: importing this module makes the metadata complete."""

from __future__ import annotations

from indexer.catalog import (
    account_tables,
    audit_tables,
    casework_tables,
    picture_tables,
    sealing_tables,
    tables,
)
from indexer.catalog.base import Base

__all__ = [
    "Base",
    "account_tables",
    "audit_tables",
    "casework_tables",
    "picture_tables",
    "sealing_tables",
    "tables",
]
