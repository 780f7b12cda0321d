"""Encryption at rest: outer keys, data keys, what is sealed with them, and their rotation.

Each module says what it does; nothing is imported here, so that the modules that seal know nothing
of those that rotate.
"""
