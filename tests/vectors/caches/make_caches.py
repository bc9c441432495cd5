"""Writes the golden corpus: caches, good and bad, each with the verdict that every later verifier must give.

    python tests/vectors/caches/make_caches.py

Run once for a schema version; what it wrote is kept in the repository and not written again. The expected verdicts are
set down here by hand, from docs/manifest-format.md; the tests of takeoff judge them all. A case is one JSON file:
`entries` name -> {"file": base64} or {"link": target} or {"fifo": true} or {"folder": true} below the cache, `trust`
name -> text below the trust directory, the circumstances, and the verdict.
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
    """A whole cache; with `data`, those bytes are signed as its manifest."""
    made = made or make()
    data = data if data is not None else manifest.encode(made)
    files = {**CONTENT, **layout.determined_files(made, hashlib.sha256(data).hexdigest()), M: data, E: sign(data)}
    return {name: file(content) for name, content in sorted(files.items())}


def edited(change: Callable[[Any], object]) -> Entries:
    """A cache whose signed statement was changed as a value."""
    statement = json.loads(manifest.encode(make()))
    change(statement)
    return cache(data=canon(statement))


def replaced(old: bytes, new: bytes) -> Entries:
    """A cache whose signed statement was changed as text."""
    data = manifest.encode(make())
    assert data.count(old) >= 1, old
    return cache(data=data.replace(old, new, 1))


def sealed(change: Callable[[Any], object]) -> Entries:
    """A cache whose envelope was changed as a value."""
    entries = cache()
    value = json.loads(base64.b64decode(entries[E]["file"]))
    change(value)
    return {**entries, E: file(canon(value))}


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


# By name: what it is, what lies in it, the failures as (code, file), and the circumstances that are not the usual.
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


def main() -> None:
    folder = HERE / manifest.SCHEMA_VERSION
    folder.mkdir(exist_ok=True)
    for name, (about, entries, failures, *circumstances) in C.items():
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
        path = folder / f"{name}.json"
        if path.exists():
            raise SystemExit(f"{path} is there: the corpus is written once; delete what is to be made anew")
        path.write_text(json.dumps(case, indent=1) + "\n")


if __name__ == "__main__":
    main()
