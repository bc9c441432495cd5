"""The cache root on disk: layout, atomic writes, lock, generations."""
