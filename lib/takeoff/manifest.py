"""The manifest: its fields, the one way to write it and the one way to read it (docs/manifest-format.md).

manifest.json is an in-toto Statement v1 in canonical JSON. Exact keys everywhere and no defaults: what is unknown,
missing, double or of another type refuses the whole. Decimals are strings that `repr` of the double prints.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from takeoff import canonical, names
from takeoff.errors import ManifestFormatError, SchemaVersionError

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:preflight:cache-manifest:1"
SCHEMA_VERSION = "1.1"
MAX_BYTES = 16 * 2**20
"""Room for more than 50,000 artifacts."""

Decimal = str
Box = tuple[Decimal, Decimal, Decimal, Decimal]
"""lat_min, lon_min, lat_max, lon_max in WGS84 degrees."""


class Model(NamedTuple):
    """One backbone. engine is the name of its artifact; role is descriptor or auxiliary."""

    model_name: str
    role: str
    onnx_sha256: str
    precision: str
    runtime: str
    runtime_version: str
    engine: str
    action_key: str


class Corpus(NamedTuple):
    """The tile set. covered: boxes the area covers; allow_missing: share of the area's tiles allowed to be absent."""

    tiles_coverage_sha256: str
    tile_count: int
    zoom_levels: tuple[int, ...]
    area_sha256: str
    covered: tuple[Box, ...]
    allow_missing: Decimal
    missing: int


class Origin(NamedTuple):
    """Takeoff origin: WGS84 degrees, and metres above mean sea level, as decimal strings."""

    lat: Decimal
    lon: Decimal
    alt: Decimal


class Identity(NamedTuple):
    """What decides the content of a cache; its hash is the manifest_hash (D-C10-1)."""

    models: tuple[Model, ...]
    calibration_sha256: str
    corpus: Corpus
    sector_class: str
    takeoff_origin: Origin | None
    flight_id: str | None
    action_keys: dict[str, str]


class Target(NamedTuple):
    """The host the engines were built for. sm and jetpack are None where there is no GPU."""

    arch: str
    isa: str
    sm: str | None
    jetpack: str | None


class Parity(NamedTuple):
    """One engine against the fp32 reference: least cosine over the sample, and the threshold it passed."""

    engine: str
    sample_sha256: str
    cosine_min: Decimal
    threshold: Decimal


class Quality(NamedTuple):
    """What the gates measured before signing."""

    parity: tuple[Parity, ...]
    selftest: dict[str, str]


class Manifest(NamedTuple):
    """A whole manifest. subjects: artifact name -> SHA-256; sizes: artifact name -> bytes; times in UTC seconds.

    manifest_hash is what the statement records; compare it with `identity_hash(identity)`.
    """

    subjects: dict[str, str]
    manifest_hash: str
    generation: int
    issued_at: int
    valid_from: int
    valid_until: int
    signing_mode: str
    identity: Identity
    sizes: dict[str, int]
    target: Target
    builder: dict[str, str]
    quality: Quality


def identity_hash(identity: Identity) -> str:
    """The build identity: SHA-256 of the canonical JSON of `identity`, 64 hex digits. Raises ManifestFormatError."""
    return hashlib.sha256(canonical.encode(_plain(identity))).hexdigest()


def encode(manifest: Manifest) -> bytes:
    """The bytes of manifest.json. Raises ManifestFormatError for a manifest that `decode` would refuse."""
    predicate = _plain(manifest)
    subjects = predicate.pop("subjects")
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": subjects[name]}} for name in sorted(subjects)],
        "predicateType": PREDICATE_TYPE,
        "predicate": {"schema_version": SCHEMA_VERSION, **predicate},
    }
    data = canonical.encode(statement)
    decode(data)
    return data


def decode(data: bytes) -> Manifest:
    """Read manifest.json. Raises ManifestFormatError, or SchemaVersionError for a version this code does not know."""
    statement = canonical.decode(data, MAX_BYTES)
    match statement:
        case {"predicate": {"schema_version": str(version)}} if version != SCHEMA_VERSION:
            raise SchemaVersionError(f"is of schema version {version[:20]}; this verifier reads {SCHEMA_VERSION}")
    fields: dict[str, Any] = _STATEMENT(statement, "statement")
    predicate: dict[str, Any] = fields["predicate"]
    del predicate["schema_version"]
    listed = [name for name, _ in fields["subject"]]
    if listed != sorted(set(listed)):
        raise ManifestFormatError("subject is not sorted by name, or lists a name twice")
    manifest = Manifest(subjects=dict(fields["subject"]), **predicate)
    _check_whole(manifest)
    return manifest


def _plain(value: Any) -> Any:  # noqa: ANN401 - records in, JSON out
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {key: _plain(member) for key, member in value.items()}
    return [_plain(member) for member in value] if isinstance(value, (tuple, list)) else value


def _check_whole(manifest: Manifest) -> None:
    """What no single field shows."""
    names.check_names(manifest.subjects)
    if manifest.sizes.keys() != manifest.subjects.keys():
        raise ManifestFormatError("sizes does not name exactly the subjects")
    if manifest.valid_from >= manifest.valid_until:
        raise ManifestFormatError("valid_from is not before valid_until")
    identity = manifest.identity
    engines = [model.engine for model in identity.models] + [parity.engine for parity in manifest.quality.parity]
    for engine in engines:
        if engine not in manifest.subjects:
            raise ManifestFormatError(f"engine {engine[:80]} is no subject")
    if len({model.model_name for model in identity.models}) != len(identity.models):
        raise ManifestFormatError("models names a model twice")
    zooms = identity.corpus.zoom_levels
    if list(zooms) != sorted(set(zooms)):
        raise ManifestFormatError("zoom_levels is not strictly ascending")


# The schema. A check takes a decoded JSON value and its place, and returns the value to keep or raises.

Check = Callable[[object, str], Any]


def _record(make: Callable[..., Any], fields: dict[str, Check]) -> Check:
    def check(value: object, where: str) -> Any:  # noqa: ANN401 - whatever `make` makes
        if not isinstance(value, dict):
            raise ManifestFormatError(f"{where} is not an object")
        for key in value.keys() ^ fields.keys():
            raise ManifestFormatError(f"{where}.{key[:80]} is {'missing' if key in fields else 'unknown'}")
        return make(**{key: field(value[key], f"{where}.{key}") for key, field in fields.items()})

    return check


def _list(item: Check, least: int = 0) -> Check:
    def check(value: object, where: str) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) < least:
            raise ManifestFormatError(f"{where} is not a list of at least {least}")
        return tuple(item(member, f"{where}[{place}]") for place, member in enumerate(value))

    return check


def _map(item: Check) -> Check:
    def check(value: object, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ManifestFormatError(f"{where} is not an object")
        return {_TEXT(key, f"{where} key"): item(member, f"{where}.{key[:80]}") for key, member in value.items()}

    return check


def _text(pattern: str, what: str) -> Check:
    def check(value: object, where: str) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ManifestFormatError(f"{where} is not {what}")
        return value

    return check


def _integer(least: int, most: int = canonical.SAFE_INTEGER) -> Check:
    def check(value: object, where: str) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ManifestFormatError(f"{where} is not an integer from {least} to {most}")
        return value

    return check


def _decimal(least: float, most: float) -> Check:
    def check(value: object, where: str) -> Decimal:
        text: str = _DIGITS(value, where)
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if repr(number) != text or not least <= number <= most:
            raise ManifestFormatError(f"{where} is not a decimal from {least} to {most} as repr prints it")
        return text

    return check


def _or_null(present: Check) -> Check:
    return lambda value, where: None if value is None else present(value, where)


def _one_of(*values: str) -> Check:
    return _text("|".join(map(re.escape, values)), f"one of {', '.join(values)}")


def _box(value: object, where: str) -> Box:
    corners = _list(_DIGITS)(value, where)
    if len(corners) != 4:
        raise ManifestFormatError(f"{where} is not lat_min, lon_min, lat_max, lon_max")
    box: Box = (_LAT(corners[0], where), _LON(corners[1], where), _LAT(corners[2], where), _LON(corners[3], where))
    if not (float(box[0]) < float(box[2]) and float(box[1]) < float(box[3])):
        raise ManifestFormatError(f"{where} is empty")
    return box


_TEXT = _text(r"[ -~]{1,200}", "a text of 1 to 200 characters")
_NAME = _text(r"[ -~]{1,240}", "a file name of 1 to 240 characters")
_SHA256 = _text(r"[0-9a-f]{64}", "64 lower-case hex digits")
_UUID = _text(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "a lower-case UUID")
_DIGITS = _text(r"-?[0-9][0-9.e+-]{0,30}", "a decimal string")
_LAT = _decimal(-90.0, 90.0)
_LON = _decimal(-180.0, 180.0)
_COSINE = _decimal(-1.01, 1.01)  # float32 sums overshoot 1 a little
_TIME = _integer(0, 253402300799)  # the end of the year 9999

_MODEL = _record(
    Model,
    {
        "model_name": _TEXT,
        "role": _one_of("descriptor", "auxiliary"),
        "onnx_sha256": _SHA256,
        "precision": _one_of("fp32", "fp16", "bf16", "int8"),
        "runtime": _TEXT,
        "runtime_version": _TEXT,
        "engine": _NAME,
        "action_key": _SHA256,
    },
)
_CORPUS = _record(
    Corpus,
    {
        "tiles_coverage_sha256": _SHA256,
        "tile_count": _integer(0),
        "zoom_levels": _list(_integer(0, 30), 1),
        "area_sha256": _SHA256,
        "covered": _list(_box, 1),
        "allow_missing": _decimal(0.0, 1.0),
        "missing": _integer(0),
    },
)
_IDENTITY = _record(
    Identity,
    {
        "models": _list(_MODEL),
        "calibration_sha256": _SHA256,
        "corpus": _CORPUS,
        "sector_class": _one_of("active_conflict", "stable_rear"),
        "takeoff_origin": _or_null(_record(Origin, {"lat": _LAT, "lon": _LON, "alt": _decimal(-1e5, 1e5)})),
        "flight_id": _or_null(_UUID),
        "action_keys": _map(_SHA256),
    },
)
_PARITY = _record(Parity, {"engine": _NAME, "sample_sha256": _SHA256, "cosine_min": _COSINE, "threshold": _COSINE})
_PREDICATE = _record(
    dict,
    {
        "schema_version": _one_of(SCHEMA_VERSION),
        "manifest_hash": _SHA256,
        "generation": _integer(1),
        "issued_at": _TIME,
        "valid_from": _TIME,
        "valid_until": _TIME,
        "signing_mode": _one_of("dev", "operator"),
        "identity": _IDENTITY,
        "sizes": _map(_integer(0)),
        "target": _record(Target, {"arch": _TEXT, "isa": _TEXT, "sm": _or_null(_TEXT), "jetpack": _or_null(_TEXT)}),
        "builder": _map(_TEXT),
        "quality": _record(Quality, {"parity": _list(_PARITY), "selftest": _map(_TEXT)}),
    },
)
_SUBJECT = _record(
    lambda name, digest: (name, digest["sha256"]), {"name": _NAME, "digest": _record(dict, {"sha256": _SHA256})}
)
_STATEMENT = _record(
    dict,
    {
        "_type": _one_of(STATEMENT_TYPE),
        "subject": _list(_SUBJECT, 1),
        "predicateType": _one_of(PREDICATE_TYPE),
        "predicate": _PREDICATE,
    },
)
