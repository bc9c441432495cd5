"""Writes caches for the verifier's benchmark: random bytes with real manifests, signed by a fixed key."""

from __future__ import annotations

import hashlib
import os
import platform
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from preflight.area.web_mercator import tile_center
from preflight.records import TileRow
from preflight.tileset.sealing import seal
from takeoff import envelope, keys, layout, manifest, names

ARCH = platform.machine()
ISA = (
    "neon" if ARCH == "aarch64" else "generic"
)  # every host of ARCH accepts it; a cache for another instruction set is refused
ENGINE = f"engines/model{{}}__cpu-{ISA}_openvino2026.4.1_fp32.engine"
ZERO = "00" * 32
BLOCK = 2**20
ZOOM, X0, Y0, COLUMNS = 18, 109_056, 93_184, 512  # tiles in the Atlantic
CAPTURED = datetime(2026, 1, 1, tzinfo=timezone.utc)
NO_TILES = manifest.Corpus(ZERO, 1, (19,), ZERO, (("0.346", "32.588", "0.352", "32.6"),), "0.0", 0)
SMALL_FILES = {"calibration.json": 600, "corpus.json": 2_000, "selftest.json": 4_000, "provenance.json": 1_500}


@dataclass(frozen=True)
class Scene:
    """A cache, its trust directory, and the files that every tool hashes.

    Attributes:
        cache: folder of the cache.
        trust: the trust directory.
        base: the folder to which the names in `hashed` and in the file `sums` are relative.
        sums: a file in the format of sha256sum.
        plain: a folder with exactly the hashed files, for tools that take a folder.
        hashed: names of the hashed files.
        bytes: total size of the hashed files.
    """

    cache: Path
    trust: Path
    base: Path
    sums: Path
    plain: Path
    hashed: list[str]
    bytes: int

    @property
    def files(self) -> int:
        """The number of files of the cache."""
        return sum(1 for path in self.cache.rglob("*") if path.is_file())


def large(folder: Path, megabytes: int) -> Scene:
    """Write a cache of four engines and an index, each a fifth of the megabytes, and small files."""
    part = megabytes * 10**6 // 5
    sizes = {ENGINE.format(number): part for number in range(4)} | {"descriptors.faiss": part} | SMALL_FILES
    return _write(folder, sizes)


def many(folder: Path, count: int, size: int) -> Scene:
    """Write a cache of `count` artifacts of `size` bytes, 1000 in each folder.

    Their names are short, because a manifest has at most 16 MiB.
    """
    sizes = {f"f{number // 1000}/{number}": size for number in range(count)}
    return _write(folder, {ENGINE.format(0): size, **sizes})


def three(folder: Path) -> Scene:
    """Write a cache of three small files."""
    return _write(folder, {ENGINE.format(0): 2_000, "descriptors.faiss": 700, "calibration.json": 600})


def deep(folder: Path, count: int, size: int) -> Scene:
    """Write a cache with `count` tiles of `size` bytes in a tile store beside it. The tools hash the tiles.

    The files have the layout of the tile store. They are not flushed one by one, because that would take minutes.
    """
    base, sums, inventory = folder / "tiles", folder / "tiles.sha256", folder / "tiles.inventory"
    source = random.Random(8)
    rows = [_tile(base, number, source.randbytes(size)) for number in range(count)]
    rows.sort(key=lambda row: (row.zoom, row.lat, row.lon, row.source))
    with inventory.open("wb") as out:
        header = seal(rows, out)
    sums.write_text("".join(f"{row.sha256}  {row.path}\n" for row in rows))
    corpus = NO_TILES._replace(
        tiles_coverage_sha256=header.aggregate, tile_count=header.count, zoom_levels=header.zooms
    )
    scene = _write(folder, {ENGINE.format(0): 2_000}, [inventory], corpus)
    hashed = [row.path for row in rows]
    return replace(scene, base=base, sums=sums, plain=base / "objects", hashed=hashed, bytes=count * size)


def _tile(base: Path, number: int, content: bytes) -> TileRow:
    sha256 = hashlib.sha256(content).hexdigest()
    path = base / "objects" / sha256[:2] / f"{sha256}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    x, y = X0 + number % COLUMNS, Y0 + number // COLUMNS
    name = path.relative_to(base).as_posix()
    return TileRow(ZOOM, x, y, *tile_center(ZOOM, x, y), "made-up", sha256, name, CAPTURED)


def _write(
    folder: Path, random_files: dict[str, int], ready: Sequence[Path] = (), corpus: manifest.Corpus = NO_TILES
) -> Scene:
    """Write a cache of random files. ready: existing files to move into the cache."""
    sizes = random_files | {path.name: path.stat().st_size for path in ready}
    cache, trust, plain = folder / "cache", folder / "trust", folder / "plain"
    trust.mkdir(parents=True)
    private = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public = private.public_key().public_bytes_raw()
    (trust / "operator.pem").write_bytes(keys.to_pem(public))
    source = random.Random(7)
    hashes = {}
    cache.mkdir()
    for path in ready:
        hashes[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        path.rename(cache / path.name)
    for name, size in random_files.items():
        hashes[name] = _random_file(cache / name, size, source)
    for name in sizes:
        (plain / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(cache / name, plain / name)
    document = _manifest(hashes, sizes, corpus)
    data = manifest.encode(document)
    sealed = envelope.Envelope(data, keys.fingerprint(public), private.sign(envelope.pae(data)))
    files = layout.determined_files(document, hashlib.sha256(data).hexdigest())
    for name, content in {**files, names.MANIFEST: data, names.ENVELOPE: envelope.encode(sealed)}.items():
        (cache / name).write_bytes(content)
    return Scene(cache, trust, cache, cache / names.SUMS, plain, sorted(sizes), sum(sizes.values()))


def _random_file(path: Path, size: int, source: random.Random) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for block in _blocks(size, source):
            file.write(block)
            digest.update(block)
    return digest.hexdigest()


def _blocks(size: int, source: random.Random) -> Iterator[bytes]:
    for start in range(0, size, BLOCK):
        yield source.randbytes(min(BLOCK, size - start))


def _manifest(hashes: dict[str, str], sizes: dict[str, int], corpus: manifest.Corpus) -> manifest.Manifest:
    engines = [name for name in sizes if name.endswith(".engine")]
    roles = ["descriptor", *["auxiliary"] * (len(engines) - 1)]
    models = tuple(
        manifest.Model(f"model{number}", role, ZERO, "fp32", "openvino", "2026.4.1", engine, ZERO)
        for number, (engine, role) in enumerate(zip(engines, roles, strict=True))
    )
    identity = manifest.Identity(
        models=models,
        calibration_sha256=ZERO,
        corpus=corpus,
        sector_class="stable_rear",
        takeoff_origin=manifest.Origin("0.348", "32.59", "1190.0"),
        flight_id=None,
        action_keys={"index": ZERO},
    )
    now = int(time.time())
    return manifest.Manifest(
        subjects=hashes,
        manifest_hash=manifest.identity_hash(identity),
        generation=1,
        issued_at=now,
        valid_from=now - 60,
        valid_until=now + 30 * 86_400,
        signing_mode="operator",
        identity=identity,
        sizes=sizes,
        target=manifest.Target(ARCH, ISA, None, None),
        builder={"preflight": "0.1.0"},
        quality=manifest.Quality((), {}),
    )
