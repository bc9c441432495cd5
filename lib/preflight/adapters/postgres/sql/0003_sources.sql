-- The provenance of each source: one row for each folder or file that was imported under its name.

CREATE TABLE preflight.sources (
    name        text COLLATE "C" NOT NULL CHECK (name <> ''),
    origin      text COLLATE "C" NOT NULL CHECK (origin <> ''),
    terms       text,
    captured_at timestamptz,
    imported_at timestamptz      NOT NULL,
    PRIMARY KEY (name, origin)
);
COMMENT ON COLUMN preflight.sources.origin IS 'the path as it was on the machine that imported it';
COMMENT ON COLUMN preflight.sources.captured_at IS 'null where neither the container nor the operator said';
COMMENT ON COLUMN preflight.sources.imported_at IS 'when an import from here last changed a tile';
