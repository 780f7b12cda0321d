"""Nearest neighbours by cosine: one narrow protocol and what fulfils it.

``base`` is the protocol and the one way in which scores are computed, ``tags`` what may be
filtered by. ``numpy_index`` is the reference; ``segmented`` searches segments on this machine (in
files: ``segment``; scanned by ``scan`` on the processor, ``gpu`` on a GPU) and rows in memory
(``fresh``); ``milvus`` searches on a server.
"""
