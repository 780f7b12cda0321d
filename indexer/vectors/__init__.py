"""Nearest neighbours by cosine: one narrow protocol, a NumPy reference, FAISS."""

from indexer.vectors.base import NO_NEIGHBOURS, Neighbours, VectorIndex
from indexer.vectors.faiss_index import FaissIndex
from indexer.vectors.numpy_index import NumpyIndex

__all__ = ["NO_NEIGHBOURS", "FaissIndex", "Neighbours", "NumpyIndex", "VectorIndex"]
