"""The record of every act, which cannot be changed without being found out."""

from indexer.audit.chain import GENESIS, record

__all__ = ["GENESIS", "record"]
