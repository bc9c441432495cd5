"""Tiles from any source into the tile store.

source     what an adapter for a source hands over
importing  the import of one source
storing    checks and stores one chunk of tiles
request    what an import is asked, its progress and its counts
"""
