"""Sources of tiles that read archives: MBTiles and PMTiles."""
