"""One module a foreign library, each the only importer of it."""
