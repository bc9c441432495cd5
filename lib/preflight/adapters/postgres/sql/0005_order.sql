-- The order in which tiles are sealed. Without it a box of a million rows is read as a whole and sorted on disk before the
-- first row comes; with it the rows of a large box come from this index, and only those of a small one are sorted.
CREATE INDEX tiles_in_order ON preflight.tiles (zoom, lat, lon, source);
