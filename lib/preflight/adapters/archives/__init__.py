"""Tile archives: MBTiles and PMTiles."""
