-- The rows of the tile store (C6 TileMetadataStore), the manifests of its caches, and the revision of the store.

CREATE TABLE preflight.tiles (
    zoom           smallint         NOT NULL CHECK (zoom BETWEEN 0 AND 24),
    x              integer          NOT NULL CHECK (x >= 0 AND x < (1 << zoom)),
    y              integer          NOT NULL CHECK (y >= 0 AND y < (1 << zoom)),
    lat            double precision NOT NULL CHECK (lat BETWEEN -85.06 AND 85.06),
    lon            double precision NOT NULL CHECK (lon BETWEEN -180 AND 180),
    source         text COLLATE "C" NOT NULL CHECK (source <> ''),
    content_sha256 text COLLATE "C" NOT NULL CHECK (content_sha256 ~ '^[0-9a-f]{64}$'),
    path           text             NOT NULL,
    captured_at    timestamptz      NOT NULL,
    imported_at    timestamptz      NOT NULL DEFAULT now(),
    PRIMARY KEY (zoom, x, y, source)
);
COMMENT ON COLUMN preflight.tiles.lat IS 'tile centre, WGS84 degrees; identities are made of these digits: never recompute';
COMMENT ON COLUMN preflight.tiles.path IS 'relative to the tile store''s root';

-- The primary key serves boxes that are narrow in x. This index serves boxes that are narrow in y. The planner chooses.
CREATE INDEX tiles_by_row ON preflight.tiles (zoom, y, x);

CREATE TABLE preflight.manifests (
    cache_root      text        NOT NULL,
    generation      bigint      NOT NULL,
    manifest_hash   text        NOT NULL,
    manifest_sha256 text        NOT NULL,
    flight_id       text,
    signer          text        NOT NULL,
    issued_at       timestamptz NOT NULL,
    valid_until     timestamptz NOT NULL,
    status          text        NOT NULL CHECK (status IN ('pending', 'active', 'retired')),
    PRIMARY KEY (cache_root, generation)
);

CREATE TABLE preflight.store_state (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    store_id uuid    NOT NULL DEFAULT gen_random_uuid(),
    revision bigint  NOT NULL DEFAULT 0
);
INSERT INTO preflight.store_state DEFAULT VALUES;

-- A statement that changed no row does not advance the revision. So a second import of the same tiles leaves a cache up
-- to date.
CREATE FUNCTION preflight.advance_revision() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE preflight.store_state SET revision = revision + 1;
    RETURN NULL;
END $$;

CREATE FUNCTION preflight.advance_revision_if_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM changed) THEN
        UPDATE preflight.store_state SET revision = revision + 1;
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION preflight.advance_revision_if_updated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT * FROM changed EXCEPT SELECT * FROM before) THEN
        UPDATE preflight.store_state SET revision = revision + 1;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER tiles_inserted AFTER INSERT ON preflight.tiles REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION preflight.advance_revision_if_changed();
CREATE TRIGGER tiles_deleted AFTER DELETE ON preflight.tiles REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION preflight.advance_revision_if_changed();
CREATE TRIGGER tiles_updated AFTER UPDATE ON preflight.tiles REFERENCING OLD TABLE AS before NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION preflight.advance_revision_if_updated();
CREATE TRIGGER tiles_emptied AFTER TRUNCATE ON preflight.tiles
    FOR EACH STATEMENT EXECUTE FUNCTION preflight.advance_revision();
