-- A log of the tiles that changed at each revision. With it, the cost of sealing again depends on the changed tiles
-- only.
--
-- The log is complete for revisions after store_state.logged_from. A statement that changes more than 10,000 tiles is
-- not logged tile by tile. It sets logged_from to its own revision, and deletes the log before it.

CREATE TABLE preflight.tile_changes (
    revision bigint   NOT NULL,
    zoom     smallint NOT NULL,
    x        integer  NOT NULL,
    y        integer  NOT NULL
);
CREATE INDEX tile_changes_by_revision ON preflight.tile_changes (revision);

ALTER TABLE preflight.store_state ADD COLUMN logged_from bigint NOT NULL DEFAULT 0;
UPDATE preflight.store_state SET logged_from = revision;

CREATE FUNCTION preflight.forget_changes() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM preflight.tile_changes;
    UPDATE preflight.store_state SET logged_from = revision;
END $$;

-- Replaces the functions of the first migration: they now also write the log.
CREATE OR REPLACE FUNCTION preflight.advance_revision() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE preflight.store_state SET revision = revision + 1;
    PERFORM preflight.forget_changes();
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION preflight.advance_revision_if_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    now_at bigint;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM changed) THEN
        RETURN NULL;
    END IF;
    UPDATE preflight.store_state SET revision = revision + 1 RETURNING revision INTO now_at;
    IF (SELECT count(*) FROM (SELECT 1 FROM changed LIMIT 10001) AS few) > 10000 THEN
        PERFORM preflight.forget_changes();
    ELSE
        INSERT INTO preflight.tile_changes SELECT now_at, zoom, x, y FROM changed;
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION preflight.advance_revision_if_updated() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    now_at bigint;
BEGIN
    IF NOT EXISTS (SELECT * FROM changed EXCEPT SELECT * FROM before) THEN
        RETURN NULL;
    END IF;
    UPDATE preflight.store_state SET revision = revision + 1 RETURNING revision INTO now_at;
    IF (SELECT count(*) FROM (SELECT 1 FROM changed LIMIT 10001) AS few) > 10000 THEN
        PERFORM preflight.forget_changes();
    ELSE
        -- Log the old and the new tile, because an update may move a row to another tile.
        INSERT INTO preflight.tile_changes
            SELECT now_at, zoom, x, y FROM changed UNION SELECT now_at, zoom, x, y FROM before;
    END IF;
    RETURN NULL;
END $$;
