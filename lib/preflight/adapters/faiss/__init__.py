"""The FAISS HNSW index."""
