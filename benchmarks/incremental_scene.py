"""Writes a mission with N synthetic tiles: `python incremental_scene.py FOLDER ROWS DISTINCT`.

The rows are a block of XYZ tiles of one zoom, as square as the factors of N allow. They share their files: DISTINCT
images of 16 x 16 pixels. The backbone is one matrix with an L2 normalisation, so that the measurements show this
program and not a model.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import struct
import sys
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "lib"))

import yaml  # noqa: E402 - the path must be set first

from preflight import wiring  # noqa: E402 - the path must be set first
from preflight.adapters.postgres.embedded import EmbeddedPostgres  # noqa: E402 - the path must be set first
from preflight.area.web_mercator import tile_bounds, tile_center  # noqa: E402 - the path must be set first
from preflight.records import TileRow  # noqa: E402 - the path must be set first

ZOOM, X0, Y0 = 18, 109_056, 93_184  # in the Atlantic; the north-west corner of a block of 256 x 256 tiles
SOURCE = "made-up"
SIDE = 16
DIM = 8
CAPTURED = datetime(2026, 1, 1, tzinfo=timezone.utc)


def columns_of(rows: int) -> int:
    """Return the number of columns of the block: the smallest factor that is not below the square root."""
    return next(side for side in range(math.isqrt(rows - 1) + 1, rows + 1) if rows % side == 0)


def picture(seed: int) -> bytes:
    """Return a PNG with 16 x 16 random RGB pixels."""
    noise = random.Random(seed)
    lines = b"".join(b"\0" + noise.randbytes(3 * SIDE) for _ in range(SIDE))

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def server(folder: Path) -> AbstractContextManager[str]:
    """Return a context manager that runs the Postgres of the tile store. It gives a connection string of libpq."""
    return EmbeddedPostgres(folder / "tiles")


def url_of(conninfo: str) -> str:
    """Convert a connection string of libpq to the URL form that a mission needs."""
    parts = dict(part.split("=", 1) for part in conninfo.split())
    host = parts["host"].replace("/", "%2F")
    return f"postgresql:///{parts['dbname']}?host={host}&port={parts['port']}&user={parts['user']}"


def write_mission(folder: Path, name: str, rows: int, database: str) -> Path:
    """Write a mission file and return its path. Mission files of one folder differ only in their database."""
    columns = columns_of(rows)
    first, last = tile_bounds(ZOOM, X0, Y0), tile_bounds(ZOOM, X0 + columns - 1, Y0 + rows // columns - 1)
    value = {
        "version": 1,
        "cache_root": "cache",
        "tile_store": {"root": "tiles", "database": database},
        "area": {
            "bbox": {
                "lat_min": last.lat_min + 1e-7,
                "lon_min": first.lon_min + 1e-7,
                "lat_max": first.lat_max - 1e-7,
                "lon_max": last.lon_max - 1e-7,
            }
        },
        "zoom_levels": [ZOOM],
        "sector_class": "stable_rear",
        "calibration": "camera.json",
        "trust": "trust",
        "takeoff_origin": {"lat": last.lat_min + 1e-4, "lon": first.lon_min + 1e-4, "alt": 100.0},
        "flight_id": "0b6cf8c6-3a0e-4a55-9b0e-0a2a2a6d7f10",
        "components": {
            "c10_provisioning": {
                "runtime": "openvino",
                "workspace_mb": 256,
                "backbones": [
                    {
                        "model_name": "tiny",
                        "role": "descriptor",
                        "onnx_path": "tiny.onnx",
                        "input_name": "image",
                        "expected_input_shape": [1, 3, SIDE, SIDE],
                        "precision": "fp32",
                        "preprocessing": {"mean": [127.5] * 3, "std": [64.0] * 3},
                    }
                ],
                "descriptors": {"batch_size": 256},
                "index": {"m": 4, "ef_construction": 8, "ef_search": 8},
                "selftest": {"queries": 4, "margin_over_thumbnail": -1.0},
                "manifest": {"signing_mode": "dev", "signing_key": "keys/dev.pem", "valid_for_days": 30},
                "provisioner": {"keep_generations": 2, "max_tile_age_days": {"stable_rear": 100000}},
            }
        },
    }
    path = folder / name
    path.write_text(yaml.safe_dump(value, sort_keys=False))
    return path


def write_backbone(path: Path) -> None:
    """Write a backbone: one matrix of seeded random numbers, from (N, 3, 16, 16) float32 to (N, 8), L2-normalised."""
    import numpy as np  # noqa: PLC0415 - heavy
    import onnx  # noqa: PLC0415 - heavy, as above
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415 - heavy, as above

    matrix = np.random.default_rng(1).standard_normal((3 * SIDE * SIDE, DIM)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "matrix"], ["raw"]),
        helper.make_node("ReduceL2", ["raw"], ["length"], axes=[1], keepdims=1),
        helper.make_node("Div", ["raw", "length"], ["descriptor"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("descriptor", TensorProto.FLOAT, ["batch", DIM])],
        [numpy_helper.from_array(matrix, "matrix")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def change_one_tile(folder: Path, rows: int, number: int) -> Path:
    """Write a folder ZOOM/X/Y.png for `doit import --update`: one new image for a tile in the middle of the block."""
    columns = columns_of(rows)
    middle = (rows // columns // 2) * columns + columns // 2 + number % 7
    x, y = X0 + middle % columns, Y0 + middle // columns
    changed = folder / f"change-{number}"
    path = changed / str(ZOOM) / str(x) / f"{y}.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(picture(1_000_000_000 + number))
    return changed


def fill(folder: Path, rows: int, distinct: int) -> None:
    """Write everything that a first `doit provision` needs: calibration, backbone and tile store."""
    (folder / "camera.json").write_text(json.dumps({"fx": 1000.0, "fy": 1000.0, "cx": 640.0, "cy": 360.0}))
    write_backbone(folder / "tiny.onnx")
    access = wiring.tile_access(folder / "tiles", "embedded")
    try:
        pixels = access.pixels()
        files = []
        for number in range(distinct):
            content = picture(number)
            sha256 = hashlib.sha256(content).hexdigest()
            path, _ = pixels.put(content, sha256, ".png")
            files.append((sha256, path))
        columns = columns_of(rows)

        def all_rows() -> Iterator[TileRow]:
            choose = random.Random(rows)
            for number in range(rows):
                x, y = X0 + number % columns, Y0 + number // columns
                sha256, path = files[choose.randrange(distinct)]
                yield TileRow(ZOOM, x, y, *tile_center(ZOOM, x, y), SOURCE, sha256, path, CAPTURED)

        access.metadata().upsert(all_rows(), replace=False)
    finally:
        access.close()


if __name__ == "__main__":
    fill(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
