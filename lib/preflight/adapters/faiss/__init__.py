"""The descriptor index: an HNSW graph of FAISS."""
