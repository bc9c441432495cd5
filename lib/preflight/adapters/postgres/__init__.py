"""Tile metadata in Postgres, and an embedded Postgres server."""
