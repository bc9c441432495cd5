"""A second verifier, written from docs/manifest-format.md alone: the standard library and cryptography, nothing of ours.

`read` gives the exit statuses of what is wrong with the bytes; second_policy.py goes on from there. They are a test's, not for
flight: they know nothing of races, limits of time or failing disks.
"""

# ruff: noqa: E731 - rules of one line each
import base64
import contextlib
import hashlib
import json
import os
import re

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_public_key

P, SPKI = 2**255 - 19, bytes.fromhex("302a300506032b6570032100")
Y8 = int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little")
PART = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._+-]{0,238}[A-Za-z0-9_+-])?")


def need(condition):
    if not condition:
        raise ValueError


def fits(value, rule):
    """Raise ValueError unless: a dict's members are exactly the rule's; a list's items each fit; a rule says yes."""
    need(isinstance(value, type(rule)) if isinstance(rule, (dict, list)) else rule(value))
    if isinstance(rule, dict):
        need(value.keys() == rule.keys())
    for key in value if isinstance(rule, (dict, list)) else ():
        fits(value[key] if isinstance(rule, dict) else key, rule[key if isinstance(rule, dict) else 0])
    return True


text = lambda pattern: lambda value: isinstance(value, str) and re.fullmatch(pattern, value)
whole = lambda low, high=2**53 - 1: lambda value: type(value) is int and low <= value <= high
real = lambda low, high: lambda value: repr(float(value)) == value and low <= float(value) <= high
null = lambda rule: lambda value: value is None or fits(value, rule)
named = lambda rule: (
    lambda value: isinstance(value, dict) and all(TEXT(key) and fits(value[key], rule) for key in value)
)
TEXT, HASH, TIME = text(r"[ -~]{1,200}"), text(r"[0-9a-f]{64}"), whole(0, 253402300799)
LAT, LON, COSINE = real(-90.0, 90.0), real(-180.0, 180.0), real(-1.01, 1.01)
box = lambda b: len(b) == 4 and LAT(b[0]) and LON(b[1]) and LAT(b[2]) and LON(b[3]) and area(*map(float, b))
area = lambda south, west, north, east: south < north and west < east
PRECISION, ROLE = text("fp32|fp16|bf16|int8"), text("descriptor|auxiliary")
UUID = text("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
MODEL = dict.fromkeys(["model_name", "runtime", "runtime_version", "engine"], TEXT)
MODEL |= {"onnx_sha256": HASH, "action_key": HASH, "role": ROLE, "precision": PRECISION}
CORPUS = {"tiles_coverage_sha256": HASH, "area_sha256": HASH, "tile_count": whole(0), "missing": whole(0)}
CORPUS |= {"zoom_levels": [whole(0, 30)], "covered": [box], "allow_missing": real(0.0, 1.0)}
IDENTITY = {"models": [MODEL], "calibration_sha256": HASH, "corpus": CORPUS, "action_keys": named(HASH)}
IDENTITY |= {"sector_class": text("active_conflict|stable_rear"), "flight_id": null(UUID)}
IDENTITY |= {"takeoff_origin": null({"lat": LAT, "lon": LON, "alt": real(-1e5, 1e5)})}
PREDICATE = {"schema_version": TEXT, "manifest_hash": HASH, "generation": whole(1), "identity": IDENTITY}
PREDICATE |= {"signing_mode": text("dev|operator"), "issued_at": TIME, "valid_from": TIME, "valid_until": TIME}
PREDICATE |= {"sizes": named(whole(0))}
PREDICATE |= {"target": {"arch": TEXT, "isa": TEXT, "sm": null(TEXT), "jetpack": null(TEXT)}, "builder": named(TEXT)}
PARITY = {"engine": TEXT, "sample_sha256": HASH, "cosine_min": COSINE, "threshold": COSINE}
PREDICATE |= {"quality": {"parity": [PARITY], "selftest": named(TEXT)}}
SUBJECT = {"name": text(r"[ -~]{1,240}"), "digest": {"sha256": HASH}}
TYPES = [text(r"https://in-toto\.io/Statement/v1"), text("urn:preflight:cache-manifest:1")]
STATEMENT = {"_type": TYPES[0], "subject": [SUBJECT], "predicateType": TYPES[1], "predicate": PREDICATE}
ENVELOPE = {"payload": text(".*"), "payloadType": text(r"application/vnd\.in-toto\+json")}
ENVELOPE |= {"signatures": [{"keyid": HASH, "sig": text(".*")}]}


def plain(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def canonical(data, limit):
    value = json.loads(data.decode("ascii"))
    need(len(data) <= limit and plain(value) == data and re.fullmatch(rb"[ -\[\]-~]*", data))
    walk(value, 1)
    return value


def walk(item, depth):
    need(not isinstance(item, float) and (type(item) is not int or abs(item) < 2**53))
    need(depth <= 16 or not isinstance(item, (dict, list)))
    for member in item.values() if isinstance(item, dict) else item if isinstance(item, list) else ():
        walk(member, depth + 1)


def read_statement(data):
    value = canonical(data, 16 * 2**20)
    version = value["predicate"]["schema_version"]
    if isinstance(version, str) and version != "1.1":
        raise ValueError("a version to come")
    fits(value, STATEMENT)
    it, names = value["predicate"], [subject["name"] for subject in value["subject"]]
    corpus, models = it["identity"]["corpus"], it["identity"]["models"]
    need(names and corpus["covered"] and corpus["zoom_levels"] and it["valid_from"] < it["valid_until"])
    for ascending in (names, corpus["zoom_levels"]):
        need(ascending == sorted(set(ascending)))
    need(it["sizes"].keys() == set(names) >= {item["engine"] for item in models + it["quality"]["parity"]})
    need(len({model["model_name"] for model in models}) == len(models))
    files = [*names, "manifest.json", "manifest.dsse.json", "SHA256SUMS"]
    files += [f"{name}.sha256" for name in files[:-2]]
    need(all(PART.fullmatch(part) for name in names for part in name.split("/")))
    folders = {"/".join(name.split("/")[:end]) for name in files for end in range(1, name.count("/") + 1)}
    need(len({name.lower() for name in [*files, *folders]}) == len(files) + len(folders))
    return value, set(files) | folders


def load(path):
    """The bytes of a regular file, else 28 where there is none, 31 where it is something else."""
    if not os.path.lexists(path):
        return 28
    return path.read_bytes() if path.is_file() and not (path.is_symlink() or path.parent.is_symlink()) else 31


def read_trust(folder):
    keys, lines = {}, (folder / "revoked").read_text().splitlines() if (folder / "revoked").exists() else []
    for path in folder.glob("*.pem"):
        pem = path.read_bytes().replace(b"\r\n", b"\n")
        der = base64.b64decode(pem.split(b"\n")[1])
        y = int.from_bytes(der[12:], "little") % 2**255
        need(pem == b"-----BEGIN PUBLIC KEY-----\n" + base64.b64encode(der) + b"\n-----END PUBLIC KEY-----\n")
        need(der[:12] == SPKI and len(der) == 44 and y < P and y not in (0, 1, P - 1, Y8, P - Y8))
        keys[hashlib.sha256(der).hexdigest()] = load_pem_public_key(pem)
    revoked = {line.split("#")[0].strip().lower() for line in lines} - {""}
    need(keys and all(map(HASH, revoked)))
    return keys, revoked, (folder / "allow_dev").exists()


def check_envelope(data, signed, trust):
    it = canonical(data, 22373717)
    fits(it, ENVELOPE)
    (signature,) = it["signatures"]
    payload, sig = base64.b64decode(it["payload"]), base64.b64decode(signature["sig"])
    written = [base64.b64encode(part).decode() for part in (payload, sig)]
    need(written == [it["payload"], signature["sig"]] and len(sig) == 64)
    found = {24} if signed is not None and payload != signed else set()
    if trust and (signature["keyid"] in trust[1] or signature["keyid"] not in trust[0]):
        return found | {21 if signature["keyid"] in trust[1] else 22}
    signed_bytes = b"DSSEv1 28 application/vnd.in-toto+json %d %b" % (len(payload), payload)
    with contextlib.suppress(InvalidSignature):
        return found if not trust else trust[0][signature["keyid"]].verify(sig, signed_bytes) or found
    return found | {24}


def attempt(found, status, step, *arguments):
    """What a step gives, or None with its status noted."""
    try:
        return step(*arguments)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        found.add(26 if error.args == ("a version to come",) else status)
        return None


def read(root, trust):
    """The exit statuses of everything that is wrong with files and signature, and the predicate, None where it is unreadable."""
    found, signed, sealed = set(), load(root / "manifest.json"), load(root / "manifest.dsse.json")
    if signed == 28:
        return {19}, None
    found |= {status for status in (signed, sealed) if isinstance(status, int)}
    signed = None if isinstance(signed, int) else signed
    trust = attempt(found, 20, read_trust, trust)
    if not isinstance(sealed, int):
        found |= attempt(found, 23, check_envelope, sealed, signed, trust) or set()
    statement = None if signed is None else attempt(found, 25, read_statement, signed)
    if not statement:
        return found, None
    value, known = statement
    it, hashes = value["predicate"], {item["name"]: item["digest"]["sha256"] for item in value["subject"]}
    listed = {**hashes, "manifest.json": hashlib.sha256(signed).hexdigest()}
    texts = {f"{name}.sha256": digest.encode() for name, digest in listed.items()}
    texts["SHA256SUMS"] = "".join(f"{listed[name]}  {name}\n" for name in sorted(listed)).encode()
    found |= {30 for path in root.rglob("*") if path.relative_to(root).as_posix() not in known}
    for name, content in texts.items():
        data = load(root / name)
        if data != content:
            found.add(34 if isinstance(data, bytes) else 29 if data == 28 and name != "SHA256SUMS" else data)
    for name, digest in hashes.items():
        data = load(root / name)
        if not isinstance(data, bytes) or (len(data), hashlib.sha256(data).hexdigest()) != (it["sizes"][name], digest):
            found.add(33 if isinstance(data, bytes) else data)
    if hashlib.sha256(plain(it["identity"])).hexdigest() != it["manifest_hash"]:
        found.add(27)
    if it["signing_mode"] == "dev" and trust and not trust[2]:
        found.add(35)
    return found, it
