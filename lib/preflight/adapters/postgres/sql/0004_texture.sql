-- The texture of a tile: how much structure the import measured when it decoded the tile.

-- Null means not measured, as in rows that other programs write. A standard deviation of values 0..255 is at most
-- 127.5. The check also refuses NaN, because Postgres sorts NaN above all numbers.
ALTER TABLE preflight.tiles ADD COLUMN texture double precision CHECK (texture BETWEEN 0 AND 127.5);
COMMENT ON COLUMN preflight.tiles.texture IS
    'standard deviation of the luminance (0..255) of 16 x 16 equal areas of the picture; null: not measured';
