"""Fetches the rows of an area by one query: `python tiles_coverage_fetch.py CONNINFO ZOOM X_MIN X_MAX Y_MIN Y_MAX`."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timezone

import psycopg

QUERY = """
SELECT zoom, x, y, lat, lon, source, content_sha256, path, captured_at, texture FROM preflight.tiles
WHERE zoom = %s AND x BETWEEN %s AND %s AND y BETWEEN %s AND %s ORDER BY zoom, lat, lon, source
"""

if __name__ == "__main__":
    conninfo, *box = sys.argv[1:]
    with psycopg.connect(conninfo) as connection:
        rows = connection.execute(QUERY, [int(number) for number in box]).fetchall()
    print(json.dumps({"event": "fetched", "rows": len(rows), "time": datetime.now(timezone.utc).isoformat()}))
