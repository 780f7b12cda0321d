"""Neural models as pure compute: image bytes in, faces with vectors out.

This package knows no database, no HTTP and no environment variables.
"""
