"""The manifest: its fields, and the only functions that write and read it (docs/manifest-format.md).

manifest.json is an in-toto Statement v1 in canonical JSON. All keys are exact and there are no defaults: a key that is
unknown, missing, double or of another type refuses the whole. Decimals are strings as `repr` prints the double.
"""

# No `from __future__ import annotations` here: the annotations carry the checks and are read at run time.

import hashlib
from typing import Annotated, Any, NamedTuple

from takeoff import canonical, names
from takeoff.errors import ManifestFormatError, SchemaVersionError
from takeoff.schema import decimal, fields_of, integer, list_of, map_of, one_of, or_null, record, text

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:preflight:cache-manifest:1"
SCHEMA_VERSION = "1.1"
MAX_BYTES = 16 * 2**20
"""Room for more than 50,000 artifacts."""

_TEXT = text(r"[ -~]{1,200}", "a text of 1 to 200 characters")
_NAME = text(r"[ -~]{1,200}", "a file name of 1 to 200 characters")
_HASH = text(r"[0-9a-f]{64}", "64 lower-case hex digits")
_UUID = text(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "a lower-case UUID")
_LAT, _LON = decimal(-90.0, 90.0), decimal(-180.0, 180.0)

Text = Annotated[str, _TEXT]
TextOrNone = Annotated[str | None, or_null(_TEXT)]
Name = Annotated[str, _NAME]
Hash = Annotated[str, _HASH]
Count = Annotated[int, integer(0)]
Time = Annotated[int, integer(0, 253402300799)]
"""UTC seconds, up to the end of the year 9999."""
Cosine = Annotated[str, decimal(-1.01, 1.01)]
"""A decimal. It may exceed 1 a little, because of float32 sums."""
Box = tuple[str, str, str, str]
"""lat_min, lon_min, lat_max, lon_max in WGS84 degrees, decimals."""


def _box(value: object, where: str) -> Box:
    if not isinstance(value, list) or len(value) != 4:
        raise ManifestFormatError(f"{where} is not lat_min, lon_min, lat_max, lon_max")
    south, west, north, east = (check(corner, where) for check, corner in zip((_LAT, _LON) * 2, value, strict=True))
    if not (float(south) < float(north) and float(west) < float(east)):
        raise ManifestFormatError(f"{where} is empty")
    return south, west, north, east


class Model(NamedTuple):
    """One backbone. engine: the name of its artifact."""

    model_name: Text
    role: Annotated[str, one_of("descriptor", "auxiliary")]
    onnx_sha256: Hash
    precision: Annotated[str, one_of("fp32", "fp16", "bf16", "int8")]
    runtime: Text
    runtime_version: Text
    engine: Name
    action_key: Hash


class Corpus(NamedTuple):
    """The tile set. covered: the boxes of the area. allow_missing: the share of the area's tiles that may be absent."""

    tiles_coverage_sha256: Hash
    tile_count: Count
    zoom_levels: Annotated[tuple[int, ...], list_of(integer(0, 30), 1)]
    area_sha256: Hash
    covered: Annotated[tuple[Box, ...], list_of(_box, 1)]
    allow_missing: Annotated[str, decimal(0.0, 1.0)]
    missing: Count


class Origin(NamedTuple):
    """The takeoff origin: WGS84 degrees, and metres above mean sea level, as decimal strings."""

    lat: Annotated[str, _LAT]
    lon: Annotated[str, _LON]
    alt: Annotated[str, decimal(-1e5, 1e5)]


class Identity(NamedTuple):
    """Everything that decides the content of a cache. Its hash is the manifest_hash (D-C10-1)."""

    models: Annotated[tuple[Model, ...], list_of(record(Model))]
    calibration_sha256: Hash
    corpus: Annotated[Corpus, record(Corpus)]
    sector_class: Annotated[str, one_of("active_conflict", "stable_rear")]
    takeoff_origin: Annotated[Origin | None, or_null(record(Origin))]
    flight_id: Annotated[str | None, or_null(_UUID)]
    action_keys: Annotated[dict[str, str], map_of(_TEXT, _HASH)]


class Target(NamedTuple):
    """The host that the engines need. sm: None if they need no GPU. jetpack: None if there was none."""

    arch: Text
    isa: Text
    sm: TextOrNone
    jetpack: TextOrNone


class Parity(NamedTuple):
    """One engine against the fp32 reference: the least cosine over the sample, and the threshold that it passed."""

    engine: Name
    sample_sha256: Hash
    cosine_min: Cosine
    threshold: Cosine


class Quality(NamedTuple):
    """The measurements of the gates before the signature."""

    parity: Annotated[tuple[Parity, ...], list_of(record(Parity))]
    selftest: Annotated[dict[str, str], map_of(_TEXT, _TEXT)]


class Manifest(NamedTuple):
    """A whole manifest: the statement's subjects and the fields of its predicate.

    subjects: artifact name -> SHA-256. sizes: artifact name -> bytes. manifest_hash: as recorded; compare it with
    `identity_hash(identity)`.
    """

    subjects: dict[str, str]
    manifest_hash: Hash
    generation: Annotated[int, integer(1)]
    issued_at: Time
    valid_from: Time
    valid_until: Time
    signing_mode: Annotated[str, one_of("dev", "operator")]
    identity: Annotated[Identity, record(Identity)]
    sizes: Annotated[dict[str, int], map_of(_TEXT, integer(0))]
    target: Annotated[Target, record(Target)]
    builder: Annotated[dict[str, str], map_of(_TEXT, _TEXT)]
    quality: Annotated[Quality, record(Quality)]


_PREDICATE = record(dict, {"schema_version": one_of(SCHEMA_VERSION), **fields_of(Manifest)})
_SUBJECT = record(dict, {"name": _NAME, "digest": record(dict, {"sha256": _HASH})})
_STATEMENT = record(
    dict,
    {
        "_type": one_of(STATEMENT_TYPE),
        "subject": list_of(_SUBJECT, 1),
        "predicateType": one_of(PREDICATE_TYPE),
        "predicate": _PREDICATE,
    },
)


def identity_hash(identity: Identity) -> str:
    """Returns the SHA-256 of the canonical JSON of `identity`, 64 hex digits. Raises ManifestFormatError."""
    return hashlib.sha256(canonical.encode(_plain(identity))).hexdigest()


def encode(manifest: Manifest) -> bytes:
    """Returns the bytes of manifest.json. Raises ManifestFormatError for a manifest that `decode` would refuse."""
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
    """Reads manifest.json. Raises ManifestFormatError, or SchemaVersionError for another schema version."""
    statement = canonical.decode(data, MAX_BYTES)
    match statement:
        case {"predicate": {"schema_version": str(version)}} if version != SCHEMA_VERSION:
            raise SchemaVersionError(f"has schema version {version[:20]}; this verifier reads {SCHEMA_VERSION}")
    fields: dict[str, Any] = _STATEMENT(statement, "statement")
    predicate: dict[str, Any] = fields["predicate"]
    del predicate["schema_version"]
    _check_ascending([subject["name"] for subject in fields["subject"]], "subject is not sorted, or names a file twice")
    subjects = {subject["name"]: subject["digest"]["sha256"] for subject in fields["subject"]}
    return _check_whole(Manifest(subjects=subjects, **predicate))


def _plain(value: Any) -> Any:  # noqa: ANN401 - records in, JSON out
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {key: _plain(member) for key, member in value.items()}
    return [_plain(member) for member in value] if isinstance(value, (tuple, list)) else value


def _check_ascending(values: list[Any], message: str) -> None:
    if values != sorted(set(values)):
        raise ManifestFormatError(message)


def _check_whole(manifest: Manifest) -> Manifest:
    """Checks the rules that concern several fields; returns the manifest."""
    names.check_names(manifest.subjects)
    if manifest.sizes.keys() != manifest.subjects.keys():
        raise ManifestFormatError("sizes does not name exactly the subjects")
    if manifest.valid_from >= manifest.valid_until:
        raise ManifestFormatError("valid_from is not before valid_until")
    identity = manifest.identity
    engines = {model.engine for model in identity.models} | {parity.engine for parity in manifest.quality.parity}
    for engine in sorted(engines - manifest.subjects.keys()):
        raise ManifestFormatError(f"the engine {engine[:80]} is not a subject")
    if len({model.model_name for model in identity.models}) != len(identity.models):
        raise ManifestFormatError("models names a model twice")
    _check_ascending(list(identity.corpus.zoom_levels), "zoom_levels is not strictly ascending")
    if any(float(parity.cosine_min) < float(parity.threshold) for parity in manifest.quality.parity):
        raise ManifestFormatError("an engine did not pass its parity gate: cosine_min is below threshold")
    return manifest
