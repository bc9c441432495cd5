"""Adapters that implement the ports. Each package or module is the only importer of its foreign library."""
