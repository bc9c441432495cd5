"""Writes the golden corpus: good and bad caches, each with the verdict that every later verifier must give.

    python tests/vectors/caches/make_caches.py

The files of a schema version stay in the repository and never change. The program adds cases that do not exist yet. It
stops if an existing case would change. The expected verdicts were written by hand from docs/manifest-format.md. The
tests of takeoff check all of them.

A case is one JSON file with these members:

entries: what lies below the cache, name -> {"file": base64}, {"link": target}, {"fifo": true} or {"folder": true}.
trust: what lies below the trust directory, name -> text, {"text": text, "times": count}, or an entry as in the cache.
trust_at: the path of the trust directory beside the cache; `trust` if it is absent.

The others are the circumstances of the verification, and the verdict.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from takeoff import envelope, keys, layout, manifest, names

HERE = Path(__file__).resolve().parent
NOW = 1_800_000_000
DAY = 86_400
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
ORDER = 2**252 + 27742317777372353535851937790883648493
ENGINE = "engines/vpr__cpu-avx2_openvino2026.4.1_fp32.engine"
CONTENT = {"calibration.json": b'{"fx": 1200}', ENGINE: bytes(range(64))}
FLIGHT = "0b6cf8c6-3a0e-4a55-9b0e-0a2a2a6d7f10"
HOST = {"arch": "x86_64", "flags": ["avx2", "sse4_1"], "sm": None}
JETSON = {"arch": "aarch64", "flags": [], "sm": "87"}
GPU = manifest.Target("aarch64", "neon", "87", "6.2")
M, E, S = names.MANIFEST, names.ENVELOPE, names.SUMS

Entries = dict[str, dict[str, Any]]


def raw(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def make(**changes: Any) -> manifest.Manifest:
    identity = manifest.Identity(
        models=(manifest.Model("vpr", "descriptor", "00" * 32, "fp32", "openvino", "2026.4.1", ENGINE, "11" * 32),),
        calibration_sha256=hashlib.sha256(CONTENT["calibration.json"]).hexdigest(),
        corpus=manifest.Corpus(
            tiles_coverage_sha256="55" * 32,
            tile_count=2,
            zoom_levels=(19, 20),
            area_sha256="22" * 32,
            covered=(("0.346", "32.588", "0.352", "32.6"), ("-1.5", "-180.0", "-1.25", "-179.5")),
            allow_missing="0.0",
            missing=0,
        ),
        sector_class="stable_rear",
        takeoff_origin=manifest.Origin("0.348", "32.59", "1190.0"),
        flight_id=FLIGHT,
        action_keys={"index": "33" * 32},
    )
    identity = identity._replace(**changes.pop("identity", {}))
    fields: dict[str, Any] = {
        "subjects": {name: hashlib.sha256(data).hexdigest() for name, data in CONTENT.items()},
        "manifest_hash": manifest.identity_hash(identity),
        "generation": 7,
        "issued_at": NOW - DAY,
        "valid_from": NOW - DAY,
        "valid_until": NOW + 29 * DAY,
        "signing_mode": "operator",
        "identity": identity,
        "sizes": {name: len(data) for name, data in CONTENT.items()},
        "target": manifest.Target("x86_64", "avx2", None, None),
        "builder": {"preflight": "0.1.0"},
        "quality": manifest.Quality((manifest.Parity(ENGINE, "44" * 32, "0.99997", "0.999"),), {"queries": "20"}),
    }
    return manifest.Manifest(**{**fields, **changes})


def canon(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def sign(payload: bytes, key: Ed25519PrivateKey = KEY) -> bytes:
    return envelope.encode(envelope.Envelope(payload, keys.fingerprint(raw(key)), key.sign(envelope.pae(payload))))


def file(data: bytes) -> dict[str, Any]:
    return {"file": base64.b64encode(data).decode()}


def cache(made: manifest.Manifest | None = None, data: bytes | None = None) -> Entries:
    """Return a complete cache. If `data` is given, its bytes are signed as the manifest."""
    made = made or make()
    data = data if data is not None else manifest.encode(made)
    files = {**CONTENT, **layout.determined_files(made, hashlib.sha256(data).hexdigest()), M: data, E: sign(data)}
    return {name: file(content) for name, content in sorted(files.items())}


def edited(change: Callable[[Any], object]) -> Entries:
    """Return a cache whose statement was changed as a JSON value before it was signed."""
    statement = json.loads(manifest.encode(make()))
    change(statement)
    return cache(data=canon(statement))


def replaced(old: bytes, new: bytes) -> Entries:
    """Return a cache whose statement was changed as text before it was signed."""
    data = manifest.encode(make())
    assert data.count(old) >= 1, old
    return cache(data=data.replace(old, new, 1))


def sealed(change: Callable[[Any], object]) -> Entries:
    """Return a cache whose envelope was changed as a JSON value."""
    entries = cache()
    value = json.loads(base64.b64decode(entries[E]["file"]))
    change(value)
    return {**entries, E: file(canon(value))}


def edited_identity(change: Callable[[Any], object]) -> Entries:
    """Return a cache whose identity was changed as a JSON value, with the manifest_hash of the changed identity."""

    def both(value: Any) -> None:
        change(value["predicate"]["identity"])
        whole = canon(value["predicate"]["identity"])
        value["predicate"]["manifest_hash"] = hashlib.sha256(whole).hexdigest()

    return edited(both)


def with_subject(name: str) -> Entries:
    """Return a cache with one more artifact, which is empty."""
    subjects = {**make().subjects, name: hashlib.sha256(b"").hexdigest()}
    return {**cache(make(subjects=subjects, sizes={**make().sizes, name: 0})), name: file(b"")}


def without(*gone: str) -> Entries:
    return {name: entry for name, entry in cache().items() if name not in gone}


def with_bytes(name: str, change: Callable[[bytes], bytes]) -> Entries:
    entries = cache()
    return {**entries, name: file(change(base64.b64decode(entries[name]["file"])))}


def with_entry(name: str, **entry: Any) -> Entries:
    return {**cache(), name: entry}


def s_plus_l(value: Any) -> None:
    signature = base64.b64decode(value["signatures"][0]["sig"])
    more = (int.from_bytes(signature[32:], "little") + ORDER).to_bytes(32, "little")
    value["signatures"][0]["sig"] = base64.b64encode(signature[:32] + more).decode()


def subject(value: Any, name: str) -> None:
    value["subject"].append({"name": name, "digest": {"sha256": "00" * 32}})
    value["subject"].sort(key=lambda item: item["name"])
    value["predicate"]["sizes"][name] = 0


def nested(depth: int) -> list[Any]:
    return [nested(depth - 1)] if depth > 1 else []


def to_come(value: Any, path: str, member: object) -> None:
    """Give a statement a later schema version, and change one member."""
    put(value, "predicate/schema_version", "1.2")
    put(value, path, member)


def put(value: Any, path: str, member: object) -> None:
    *parents, last = path.split("/")
    for key in parents:
        value = value[int(key)] if isinstance(value, list) else value[key]
    value[int(last) if isinstance(value, list) else last] = member


PEM = keys.to_pem(raw(KEY)).decode()
TRUST = {"operator.pem": PEM}
FINGERPRINT = keys.fingerprint(raw(KEY))
FLOOR = '{"issued_at":%d,"last_seen":%d}'


def bad_format(about: str, entries: Entries) -> tuple[Any, ...]:
    return about, entries, [("manifest_format", M)]


# name -> the description, the entries, the failures as (code, file), and circumstances that differ from the defaults.
C: dict[str, tuple[Any, ...]] = {
    "good": ("a cache with nothing wrong", cache(), []),
    "good-none": (
        "no takeoff origin, no flight",
        cache(make(identity={"takeoff_origin": None, "flight_id": None})),
        [],
    ),
    "good-dev": (
        "dev-signed, and the trust directory allows it",
        cache(make(signing_mode="dev")),
        [],
        {"trust": {**TRUST, "allow_dev": ""}},
    ),
    "good-first-second": ("the first second of the window", cache(), [], {"now": NOW - DAY}),
    "good-last-second": ("the last second of the window", cache(), [], {"now": NOW + 29 * DAY}),
    "good-floor": ("the floor's own issued_at", cache(), [], {"floor": FLOOR % (NOW - DAY, NOW)}),
    "good-expected": (
        "flight in capitals, a position on the edge of the second box",
        cache(),
        [],
        {"flight_id": FLIGHT.upper(), "position": [-1.25, -179.5]},
    ),
    "good-revoked-other": (
        "another key is revoked",
        cache(),
        [],
        {"trust": {**TRUST, "revoked": f"# lost\n\n{keys.fingerprint(raw(OTHER)).upper()} # 2026\n"}},
    ),
    "good-two-keys": (
        "two keys trusted, one file with CR LF, others not read",
        cache(),
        [],
        {"trust": {"a.pem": keys.to_pem(raw(OTHER)).decode(), "b.pem": PEM.replace("\n", "\r\n"), "x": "?"}},
    ),
    "good-gpu": ("engines for SM 87 on SM 87", cache(make(target=GPU)), [], {"host": JETSON, "sm": "87"}),
    "good-gpu-named": (
        "engines for SM 87, a host that cannot tell, and SM 87 named",
        cache(make(target=GPU)),
        [],
        {"host": {**JETSON, "sm": None}, "sm": "87"},
    ),
    "good-wider-cpu": (
        "a CPU that has more than is needed",
        cache(),
        [],
        {"host": {**HOST, "flags": ["avx2", "avx512f", "sse4_1"]}},
    ),
    "no-manifest": ("no manifest.json", without(M), [("manifest_not_found", M)]),
    "trust-empty": ("no key is trusted", cache(), [("trust", "TRUST")], {"trust": {"README": "no key"}}),
    "trust-weak": (
        "a key of small order",
        cache(),
        [("trust", "TRUST")],
        {"trust": {**TRUST, "w.pem": keys.to_pem(bytes([1]) + bytes(31)).decode()}},
    ),
    "trust-high-y": (
        "a key whose y is not below p",
        cache(),
        [("trust", "TRUST")],
        {"trust": {**TRUST, "w.pem": keys.to_pem(b"\xee" + b"\xff" * 30 + b"\x7f").decode()}},
    ),
    "trust-y-of-p": (
        "a key whose y is p itself, another encoding of 0",
        cache(),
        [("trust", "TRUST")],
        {"trust": {**TRUST, "w.pem": keys.to_pem(b"\xed" + b"\xff" * 30 + b"\x7f").decode()}},
    ),
    "trust-pem": (
        "a damaged key file beside a good one",
        cache(),
        [("trust", "TRUST")],
        {"trust": {**TRUST, "z.pem": PEM[:-1]}},
    ),
    "trust-not-pem": (
        "a key file that is no PEM",
        cache(),
        [("trust", "TRUST")],
        {"trust": {**TRUST, "z.pem": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI\n"}},
    ),
    "trust-revoked": (
        "a deny list that cannot be read",
        cache(),
        [("trust", "TRUST")],
        {"trust": {**TRUST, "revoked": "not a fingerprint\n"}},
    ),
    "revoked": (
        "the signing key is revoked",
        cache(),
        [("key_revoked", E)],
        {"trust": {**TRUST, "revoked": FINGERPRINT + "\n"}},
    ),
    "unknown-key": (
        "signed by a key that is not trusted",
        {**cache(), E: file(sign(manifest.encode(make()), OTHER))},
        [("key_unknown", E)],
    ),
    "envelope-not-json": ("not JSON", with_bytes(E, lambda _: b"{"), [("envelope", E)]),
    "envelope-line-feed": ("a line feed at the end", with_bytes(E, lambda data: data + b"\n"), [("envelope", E)]),
    "envelope-type": (
        "another payload type",
        sealed(lambda it: put(it, "payloadType", "application/json")),
        [("envelope", E)],
    ),
    "envelope-two": (
        "two signatures",
        sealed(lambda it: it["signatures"].append(it["signatures"][0])),
        [("envelope", E)],
    ),
    "envelope-none": ("no signature", sealed(lambda it: put(it, "signatures", [])), [("envelope", E)]),
    "envelope-member": ("a member more", sealed(lambda it: put(it, "more", 1)), [("envelope", E)]),
    "envelope-url-base64": (
        "base64 with another alphabet",
        sealed(lambda it: put(it, "signatures/0/sig", "-" * 86 + "==")),
        [("envelope", E)],
    ),
    "envelope-spare-bits": (
        "base64 with spare bits set",
        sealed(lambda it: put(it, "signatures/0/sig", "A" * 85 + "B==")),
        [("envelope", E)],
    ),
    "envelope-keyid-case": (
        "the keyid in capitals",
        sealed(lambda it: put(it, "signatures/0/keyid", FINGERPRINT.upper())),
        [("envelope", E)],
    ),
    "signature-zero": (
        "a signature of zeros",
        sealed(lambda it: put(it, "signatures/0/sig", "A" * 86 + "==")),
        [("signature", E)],
    ),
    "signature-s-plus-l": ("S + L: malleable", sealed(s_plus_l), [("signature", E)]),
    "signature-other": (
        "the envelope signs another manifest",
        {**cache(), E: file(sign(manifest.encode(make(generation=8))))},
        [("signature", M)],
    ),
    "manifest-duplicate": bad_format("a member twice", replaced(b'"generation":7', b'"generation":7,"generation":7')),
    "manifest-nan": bad_format("NaN", replaced(b'"generation":7', b'"generation":NaN')),
    "manifest-fraction": bad_format("a fraction", replaced(b'"generation":7', b'"generation":7.0')),
    "manifest-huge": bad_format("beyond 2^53 - 1", replaced(b'"generation":7', b'"generation":9007199254740992')),
    "manifest-zero": bad_format("leading zero", replaced(b'"generation":7', b'"generation":07')),
    "manifest-true": bad_format("true for an integer", replaced(b'"generation":7', b'"generation":true')),
    "manifest-space": bad_format("white space", replaced(b'"generation":7', b'"generation": 7')),
    "manifest-unsorted": bad_format(
        "members not sorted", replaced(b'"generation":7,"identity"', b'"identity":7,"generation"')
    ),
    "manifest-escape": bad_format("an escape", replaced(b'"stable_rear"', b'"stable_r\\u0065ar"')),
    "manifest-non-ascii": bad_format("not ASCII", replaced(b'"vpr"', '"vpré"'.encode())),
    "manifest-deep": bad_format(
        "nested deeper than 16", edited(lambda it: put(it, "predicate/builder", json.loads("[" * 17 + "]" * 17)))
    ),
    "manifest-unknown": bad_format("a member that is not known", edited(lambda it: put(it, "predicate/more", "1"))),
    "manifest-lacking": bad_format("a member lacking", edited(lambda it: it["predicate"].pop("target"))),
    "manifest-null": bad_format("null where none may be", edited(lambda it: put(it, "predicate/target/arch", None))),
    "manifest-type": bad_format(
        "another statement type", edited(lambda it: put(it, "_type", "https://in-toto.io/Statement/v0.1"))
    ),
    "manifest-predicate": bad_format(
        "another predicate type", edited(lambda it: put(it, "predicateType", "https://slsa.dev/provenance/v1"))
    ),
    "manifest-decimal": bad_format(
        "a decimal that repr does not print",
        edited(lambda it: put(it, "predicate/identity/corpus/allow_missing", "0.00")),
    ),
    "manifest-latitude": bad_format(
        "a latitude beyond the pole", edited(lambda it: put(it, "predicate/identity/takeoff_origin/lat", "90.5"))
    ),
    "manifest-empty-box": bad_format(
        "a box without area", edited(lambda it: put(it, "predicate/identity/corpus/covered/0/2", "0.346"))
    ),
    "manifest-box": bad_format(
        "a box of three corners", edited(lambda it: it["predicate"]["identity"]["corpus"]["covered"][0].pop())
    ),
    "manifest-model-twice": bad_format(
        "a model twice",
        edited(lambda it: it["predicate"]["identity"]["models"].append(it["predicate"]["identity"]["models"][0])),
    ),
    "manifest-list": bad_format("a list for an object", edited(lambda it: put(it, "predicate/identity", []))),
    "manifest-no-list": bad_format(
        "a text for a list", edited(lambda it: put(it, "predicate/identity/models", "none"))
    ),
    "manifest-no-map": bad_format("a list for a map", edited(lambda it: put(it, "predicate/builder", ["1"]))),
    "manifest-empty": bad_format("nothing signed", cache(data=b"")),
    "manifest-null-alone": bad_format("null signed", cache(data=b"null")),
    "manifest-zooms": bad_format(
        "zooms not ascending", edited(lambda it: put(it, "predicate/identity/corpus/zoom_levels", [20, 19]))
    ),
    "manifest-window": bad_format(
        "a window that ends before it begins", edited(lambda it: put(it, "predicate/valid_until", 5))
    ),
    "manifest-time": bad_format(
        "a time beyond the year 9999", edited(lambda it: put(it, "predicate/valid_until", 253402300800))
    ),
    "manifest-engine": bad_format(
        "an engine that is no subject", edited(lambda it: put(it, "predicate/quality/parity/0/engine", "x.engine"))
    ),
    "manifest-sizes": bad_format(
        "a size for what is no subject", edited(lambda it: put(it, "predicate/sizes/more", 1))
    ),
    "manifest-hash-case": bad_format(
        "a hash in capitals", edited(lambda it: put(it, "predicate/manifest_hash", "AB" * 32))
    ),
    "manifest-no-subject": bad_format("no subject", edited(lambda it: put(it, "subject", []))),
    "manifest-order": bad_format("subjects not sorted", edited(lambda it: it["subject"].reverse())),
    "name-parent": bad_format("a name that climbs", edited(lambda it: subject(it, "../x"))),
    "name-absolute": bad_format("an absolute name", edited(lambda it: subject(it, "/etc/passwd"))),
    "name-hidden": bad_format("a hidden name", edited(lambda it: subject(it, ".x"))),
    "name-twin": bad_format("names that differ in case", edited(lambda it: subject(it, "Calibration.json"))),
    "name-fixed": bad_format("a fixed name as a subject", edited(lambda it: subject(it, "SHA256SUMS"))),
    "name-sidecar": bad_format(
        "a sidecar's name as a subject", edited(lambda it: subject(it, "calibration.json.sha256"))
    ),
    "name-folder": bad_format("a file that is another's folder", edited(lambda it: subject(it, "calibration.json/x"))),
    "schema-version": (
        "a version to come",
        edited(lambda it: put(it, "predicate/schema_version", "1.2")),
        [("schema_version", M)],
    ),
    "schema-version-first": (
        "a version to come, with members to come",
        edited(lambda it: (put(it, "predicate/schema_version", "2.0"), put(it, "predicate/more", 1))),
        [("schema_version", M)],
    ),
    "manifest-hash": (
        "manifest_hash is not the identity's",
        cache(make(manifest_hash="ab" * 32)),
        [("manifest_hash", M)],
    ),
    "missing": (
        "an artifact, SHA256SUMS and the envelope missing",
        without("calibration.json", S, E),
        [("file_missing", S), ("file_missing", "calibration.json"), ("file_missing", E)],
    ),
    "missing-sidecars": (
        "two sidecars missing",
        without("calibration.json.sha256", "manifest.json.sha256"),
        [("sidecar_missing", "calibration.json.sha256"), ("sidecar_missing", "manifest.json.sha256")],
    ),
    "unlisted": (
        "a hidden file, an empty folder, a file beside the engine",
        {**cache(), ".x": file(b""), "empty": {"folder": True}, "engines/y": file(b"")},
        [("file_unlisted", ".x"), ("file_unlisted", "empty"), ("file_unlisted", "engines/y")],
    ),
    "link": (
        "a link to the right bytes",
        {**without(ENGINE), ENGINE: {"link": "../calibration.json"}},
        [("file_kind", ENGINE)],
    ),
    "link-manifest": (
        "the manifest behind a link",
        {**without(M), M: {"link": "calibration.json"}},
        [("file_kind", M)],
    ),
    "fifo": (
        "a FIFO",
        {**without("calibration.json"), "calibration.json": {"fifo": True}},
        [("file_kind", "calibration.json")],
    ),
    "folder": ("a folder where a sidecar must be", {**without(S), S: {"folder": True}}, [("file_kind", S)]),
    "content": (
        "other bytes of the same length",
        with_bytes(ENGINE, lambda data: data[::-1]),
        [("content_hash", ENGINE)],
    ),
    "truncated": ("a byte short", with_bytes(ENGINE, lambda data: data[:-1]), [("content_hash", ENGINE)]),
    "extended": ("a byte more", with_bytes(ENGINE, lambda data: data + b"\0"), [("content_hash", ENGINE)]),
    "sidecar-line-feed": (
        "a sidecar with a line feed",
        with_bytes("manifest.json.sha256", lambda data: data + b"\n"),
        [("sidecar", "manifest.json.sha256")],
    ),
    "sums": (
        "SHA256SUMS in another order",
        with_bytes(S, lambda data: b"".join(sorted(data.splitlines(True)))),
        [("sidecar", S)],
    ),
    "dev-signed": ("dev-signed, not allowed", cache(make(signing_mode="dev")), [("dev_signed", M)]),
    "clock": (
        "a clock before a time already seen",
        cache(),
        [("clock_untrusted", "")],
        {"floor": FLOOR % (1, NOW + 1)},
    ),
    "not-yet-valid": ("a second too early", cache(), [("not_yet_valid", M)], {"now": NOW - DAY - 1}),
    "expired": ("a second too late", cache(), [("expired", M)], {"now": NOW + 29 * DAY + 1}),
    "rollback": (
        "issued a second before the last accepted",
        cache(),
        [("rollback", M)],
        {"floor": FLOOR % (NOW - DAY + 1, NOW)},
    ),
    "floor": ("a damaged floor", cache(), [("floor", "FLOOR")], {"floor": '{"issued_at":1}'}),
    "flight": ("another flight", cache(), [("flight", M)], {"flight_id": FLIGHT.replace("0b", "0c")}),
    "flight-none": (
        "a flight expected, and the cache for none",
        cache(make(identity={"flight_id": None})),
        [("flight", M)],
        {"flight_id": FLIGHT},
    ),
    "position": ("between the boxes", cache(), [("position", M)], {"position": [0.0, 0.0]}),
    "host-arch": ("another architecture", cache(), [("host", M)], {"host": JETSON}),
    "host-isa": ("a CPU that lacks instructions", cache(), [("host", M)], {"host": {**HOST, "flags": ["sse4_1"]}}),
    "host-isa-unknown": (
        "instructions nobody knows",
        cache(make(target=manifest.Target("x86_64", "avx4096", None, None))),
        [("host", M)],
        {"host": HOST},
    ),
    "host-sm": (
        "engines for SM 87 on SM 72",
        cache(make(target=GPU)),
        [("host", M)],
        {"host": {**JETSON, "sm": "72"}, "sm": "87"},
    ),
    "host-sm-unknown": (
        "engines for SM 87 on a host that cannot tell",
        cache(make(target=GPU)),
        [("host", M)],
        {"host": {**JETSON, "sm": None}},
    ),
    "host-sm-none": ("engines for a GPU expected, and there are none", cache(), [("host", M)], {"sm": "87"}),
    "good-two-of-one-engine": (
        "two models by one engine",
        cache(
            make(identity={"models": (make().identity.models[0], make().identity.models[0]._replace(model_name="b"))})
        ),
        [],
    ),
    "good-nothing-in-it": (
        "lists and objects that may be empty, and a UUID of no version",
        cache(
            make(
                identity={"models": (), "action_keys": {}, "flight_id": "ffffffff-ffff-ffff-ffff-ffffffffffff"},
                builder={},
                quality=manifest.Quality((), {}),
            )
        ),
        [],
    ),
    "good-minus-zero": (
        "-0.0 is a decimal, also where the range begins at 0.0",
        edited_identity(
            lambda it: (put(it, "takeoff_origin/lat", "-0.0"), put(it, "corpus/allow_missing", "-0.0")),
        ),
        [],
    ),
    "good-long-name": ("a name of 200 characters; its sidecar's is longer", with_subject("a" * 200), []),
    "good-dots": ("dots within names, and before `.sha256` in a folder's", with_subject("a..sha256/_..b-+_"), []),
    "good-hidden-key": ("the key's file is hidden", cache(), [], {"trust": {".a.pem": PEM}}),
    "good-mixed-line-ends": (
        "a key file with one CR LF",
        cache(),
        [],
        {"trust": {"a.pem": PEM.replace("\n", "\r\n", 1)}},
    ),
    "good-meridian": ("a position on the 180th meridian", cache(), [], {"position": [-1.5, -180.0]}),
    "good-sm": (
        "engines for SM 87 expected, and no host compared",
        cache(make(target=GPU)),
        [],
        {"sm": "87"},
    ),
    "trust-capitals": ("a key file in capitals is none", cache(), [("trust", "TRUST")], {"trust": {"A.PEM": PEM}}),
    "trust-link": (
        "a key file that is a link",
        cache(),
        [("trust", "TRUST")],
        {"trust": {**TRUST, "z.pem": {"link": "operator.pem"}}},
    ),
    "trust-text": ("text before a key", cache(), [("trust", "TRUST")], {"trust": {**TRUST, "z.pem": "mine\n" + PEM}}),
    "trust-revoked-link": (
        "a deny list that is a link to nothing",
        cache(),
        [("trust", "TRUST")],
        {"trust": {**TRUST, "revoked": {"link": "nowhere"}}},
    ),
    "trust-within": (
        "a trust directory in the cache",
        cache(),
        [("trust", "TRUST"), ("file_unlisted", "trust")],
        {"trust_at": "cache/trust"},
    ),
    "trust-empty-envelope": (
        "no key is trusted, and the envelope is damaged",
        with_bytes(E, lambda data: data + b"\n"),
        [("trust", "TRUST"), ("envelope", E)],
        {"trust": {}},
    ),
    "trust-empty-other": (
        "no key is trusted, and the envelope is of another manifest, signed in dev mode",
        {**cache(make(signing_mode="dev")), E: file(sign(manifest.encode(make())))},
        [("trust", "TRUST"), ("signature", M)],
        {"trust": {}},
    ),
    "revoked-absent": (
        "the signing key is revoked, and its file gone",
        cache(),
        [("key_revoked", E)],
        {"trust": {"o.pem": keys.to_pem(raw(OTHER)).decode(), "revoked": FINGERPRINT}},
    ),
    "revoked-lines": (
        "a deny list with rare line ends and white space, and a comment that is not UTF-8",
        cache(),
        [("key_revoked", E)],
        {
            "trust": {
                **TRUST,
                "revoked": file(
                    b"# am Flu\xdf\r\n" + f"{'ab' * 32}\r# lost\u2028\u00a0\t{FINGERPRINT}\u3000# 2026\f\v".encode()
                ),
            }
        },
    ),
    "good-revoked-full": (
        "a deny list of 1 MiB",
        cache(),
        [],
        {"trust": {**TRUST, "revoked": {"text": "#", "times": 2**20}}},
    ),
    "trust-revoked-long": (
        "a deny list of a byte more than 1 MiB",
        cache(),
        [("trust", "TRUST")],
        {"trust": {**TRUST, "revoked": {"text": "#", "times": 2**20 + 1}}},
    ),
    "revoked-signature": (
        "the signing key is revoked: its signature is not looked at, the payload is",
        {
            **cache(),
            E: file(
                envelope.encode(envelope.Envelope(manifest.encode(make(generation=8)), FINGERPRINT, bytes(64))),
            ),
        },
        [("key_revoked", E), ("signature", M)],
        {"trust": {**TRUST, "revoked": FINGERPRINT}},
    ),
    "envelope-padding": (
        "base64 without padding",
        sealed(lambda it: put(it, "signatures/0/sig", "A" * 86)),
        [("envelope", E)],
    ),
    "envelope-short": (
        "a signature of 63 bytes",
        sealed(lambda it: put(it, "signatures/0/sig", "A" * 84)),
        [("envelope", E)],
    ),
    "signature-expired": (
        "what is badly signed is judged all the same",
        sealed(lambda it: put(it, "signatures/0/sig", "A" * 86 + "==")),
        [("signature", E), ("expired", M)],
        {"now": NOW + 30 * DAY},
    ),
    "manifest-folder": (
        "a folder for the manifest, and an unknown key; the payload has nothing to differ from",
        {**without(M), M: {"folder": True}, E: file(sign(manifest.encode(make()), OTHER))},
        [("key_unknown", E), ("file_kind", M)],
    ),
    "schema-version-space": bad_format(
        "a version to come, not canonical", replaced(b'"schema_version":"1.1"', b'"schema_version": "1.2"')
    ),
    "schema-version-number": bad_format(
        "a version that is no string", edited(lambda it: put(it, "predicate/schema_version", 2))
    ),
    "schema-version-type": (
        "a version to come, of another type",
        edited(lambda it: to_come(it, "_type", "https://in-toto.io/Statement/v2")),
        [("schema_version", M)],
    ),
    "schema-version-deep": (
        "a version to come, 16 deep",
        edited(lambda it: to_come(it, "predicate/more", nested(14))),
        [("schema_version", M)],
    ),
    "schema-version-deeper": bad_format(
        "a version to come, 17 deep", edited(lambda it: to_come(it, "predicate/more", nested(15)))
    ),
    "manifest-minus-zero-box": bad_format(
        "a box from -0.0 to 0.0",
        edited(lambda it: put(it, "predicate/identity/corpus/covered/0", ["-0.0", "1.0", "0.0", "2.0"])),
    ),
    "manifest-no-box": bad_format("no box", edited(lambda it: put(it, "predicate/identity/corpus/covered", []))),
    "manifest-no-zooms": bad_format("no zoom", edited(lambda it: put(it, "predicate/identity/corpus/zoom_levels", []))),
    "name-long": bad_format("a name of 201 characters", edited(lambda it: subject(it, "a" * 201))),
    "name-dot": bad_format("a folder's name that ends with a dot", edited(lambda it: subject(it, "a./b"))),
    "name-dots": bad_format("a name that ends with `..sha256`", edited(lambda it: subject(it, "a..sha256"))),
    "name-folder-case": bad_format(
        "a file that is another's folder but for case", edited(lambda it: subject(it, "Engines"))
    ),
    "name-folders": bad_format("folders that differ in case", edited(lambda it: subject(it, "Engines/x"))),
    "unlisted-kinds": (
        "a link, a FIFO and a folder, each unlisted and no more; the folder is not entered",
        {**cache(), "l": {"link": M}, "p": {"fifo": True}, "d/x": {"link": "x"}},
        [("file_unlisted", "d"), ("file_unlisted", "l"), ("file_unlisted", "p")],
    ),
    "folder-filled": (
        "a folder where a file must be; it is not entered",
        {**without(S), f"{S}/x": file(b"")},
        [("file_kind", S)],
    ),
    "folder-link": (
        "a link where a folder must be",
        {**without(ENGINE, f"{ENGINE}.sha256"), "engines": {"link": "."}},
        [("file_unlisted", "engines"), ("file_kind", ENGINE), ("file_kind", f"{ENGINE}.sha256")],
    ),
    "folder-file": (
        "a file where a folder must be",
        {**without(ENGINE, f"{ENGINE}.sha256"), "engines": file(b"")},
        [("file_unlisted", "engines"), ("file_kind", ENGINE), ("file_kind", f"{ENGINE}.sha256")],
    ),
    "folder-missing": (
        "a folder missing",
        without(ENGINE, f"{ENGINE}.sha256"),
        [("file_missing", ENGINE), ("sidecar_missing", f"{ENGINE}.sha256")],
    ),
    "link-sidecar": (
        "SHA256SUMS and a sidecar behind links",
        {**without(S, f"{M}.sha256"), S: {"link": M}, f"{M}.sha256": {"link": "nowhere"}},
        [("file_kind", S), ("file_kind", f"{M}.sha256")],
    ),
    "size": (
        "the right hash of another size",
        edited(lambda it: put(it, "predicate/sizes/calibration.json", 13)),
        [("content_hash", "calibration.json")],
    ),
    "clock-early": (
        "a clock before a time already seen: window and issued_at are compared all the same",
        cache(),
        [("clock_untrusted", ""), ("not_yet_valid", M), ("rollback", M)],
        {"now": 5, "floor": FLOOR % (NOW, NOW)},
    ),
    "floor-expired": (
        "a damaged floor: nothing is compared with it, the rest is",
        cache(),
        [("floor", "FLOOR"), ("expired", M)],
        {"now": NOW + 30 * DAY, "floor": FLOOR % (NOW + 1, NOW + 99 * DAY) + "\n"},
    ),
    "floor-number": (
        "a floor beyond 2^53 - 1",
        cache(),
        [("floor", "FLOOR")],
        {"floor": FLOOR % (1, 2**53)},
    ),
    "position-meridian": ("longitude 180 is not -180", cache(), [("position", M)], {"position": [-1.5, 180.0]}),
    "host-isa-aarch64": (
        "instructions of the other architecture, on a host without flags",
        cache(make(target=GPU._replace(isa="generic"))),
        [("host", M)],
        {"host": JETSON},
    ),
    "good-parity-met": (
        "an engine that meets its threshold exactly",
        edited(lambda it: put(it, "predicate/quality/parity/0/cosine_min", "0.999")),
        [],
    ),
    "manifest-parity": bad_format(
        "an engine below its threshold", edited(lambda it: put(it, "predicate/quality/parity/0/cosine_min", "0.998"))
    ),
    "dev-signed-link": (
        "dev-signed; `allow_dev` is a link",
        cache(make(signing_mode="dev")),
        [("dev_signed", M)],
        {"trust": {**TRUST, "allow_dev": {"link": "operator.pem"}}},
    ),
    "many": (
        "much at once",
        {
            **{
                name: entry
                for name, entry in cache(make(signing_mode="dev", manifest_hash="ab" * 32)).items()
                if name not in (S, "calibration.json.sha256")
            },
            "new": file(b""),
            ENGINE: file(b""),
        },
        [
            ("manifest_hash", M),
            ("file_missing", S),
            ("sidecar_missing", "calibration.json.sha256"),
            ("file_unlisted", "new"),
            ("content_hash", ENGINE),
            ("dev_signed", M),
            ("expired", M),
            ("flight", M),
            ("position", M),
            ("host", M),
        ],
        {"now": NOW + 40 * DAY, "flight_id": FLIGHT.replace("0b", "0c"), "position": [1.0, 1.0], "host": JETSON},
    ),
}


def text_of(name: str) -> str:
    """Return the content of a case's file."""
    about, entries, failures, *circumstances = C[name]
    case = {
        "about": about,
        "now": NOW,
        "trust": TRUST,
        "floor": None,
        "flight_id": None,
        "position": None,
        "host": None,
        "sm": None,
        **(circumstances[0] if circumstances else {}),
        "failures": failures,
        "entries": entries,
    }
    return json.dumps(case, indent=1) + "\n"


def main() -> None:
    folder = HERE / manifest.SCHEMA_VERSION
    folder.mkdir(exist_ok=True)
    for name in C:
        path, text = folder / f"{name}.json", text_of(name)
        if path.exists() and path.read_text() != text:
            raise SystemExit(f"{path} would change, but cases are written only once. Give the new case another name.")
        if not path.exists():
            path.write_text(text)


if __name__ == "__main__":
    main()
