"""The record of every act, which cannot be changed without being found out."""

from indexer.audit.chain import GENESIS, Entry, entry_of, record, record_many
from indexer.audit.writer import AuditWriter

__all__ = ["GENESIS", "AuditWriter", "Entry", "entry_of", "record", "record_many"]
