-- The order in which tiles are sealed. Without this index Postgres reads all rows of a box and sorts them before it
-- returns the first one; for a million rows it sorts on disk. With it, only the rows of a small box are sorted.
CREATE INDEX tiles_in_order ON preflight.tiles (zoom, lat, lon, source);
