"""Imports tiles from any source into the tile store.

source     the port that an adapter for a kind of source implements
importing  the import of one source
storing    checks and stores one chunk of tiles
request    the request, the progress and the counts of an import
"""
