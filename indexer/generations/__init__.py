"""Generations: all vectors under one contract, beside those under others.

One generation is in use. Another can be built beside it from the stored originals while searches
and ingest go on; once it is whole, one row of the catalog says that it is the one in use, and
every process follows. The one before is kept for a while and goes on receiving what is new, so
that going back is as quick and loses nothing.
"""
