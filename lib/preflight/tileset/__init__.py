"""The sealed tile set: which tiles a cache is built from.

inventory      the file `tiles.inventory`
sealing        writes it
resealing      writes it again when only a few tiles changed
source_choice  which source provides a tile that several sources have
coverage       missing, outdated and corrupt tiles
findings       notes on single tiles: no texture, unknown texture, another source exists
windows        overlapping retrieval units that cross tile borders
mosaic         the pixels of such windows
tile_lookup    array rows by tile coordinates
mapped         reads a memory-mapped file without keeping its pages
"""
