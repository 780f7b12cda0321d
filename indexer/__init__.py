"""Photos to a searchable gallery: blobs, catalog, vectors, jobs, candidates.

This package knows no HTTP. The database and the blob store are the truth; every index is a
cache that can be rebuilt from them.
"""
