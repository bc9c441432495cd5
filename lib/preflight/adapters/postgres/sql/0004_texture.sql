-- How much a tile shows: what the import measured when it decoded the tile.

-- Null: not measured, as for rows that other programs write. Standard deviations of 0..255 do not pass 127.5; NaN does.
ALTER TABLE preflight.tiles ADD COLUMN texture double precision CHECK (texture BETWEEN 0 AND 127.5);
COMMENT ON COLUMN preflight.tiles.texture IS
    'standard deviation of the luminance (0..255) of 16 x 16 equal areas of the picture; null: not measured';
