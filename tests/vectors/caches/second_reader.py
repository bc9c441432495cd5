"""A second verifier of the cache format 1.1. Its author knew only docs/manifest-format.md.

Where it differed from the first verifier, the document was made clearer, and this verifier was then changed to match.
It needs the standard library and cryptography. It is only for tests, not for flight: it ignores races, time limits and
failing disks. The policy is in second_policy.py.
"""

# ruff: noqa: PTH208 - folders are listed through their descriptors
import base64
import hashlib
import json
import os
import re
import stat

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MANIFEST_LIMIT, ENVELOPE_LIMIT, TRUST_LIMIT, P = 16 << 20, 22_373_717, 1 << 20, 2**255 - 19
ODD = int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little")
# MCowBQYDK2VwAyEA is the base64 of the 12 bytes before a key.
PEM = rb"-----BEGIN PUBLIC KEY-----\r?\n(MCowBQYDK2VwAyEA[A-Za-z0-9+/]{43}=)\r?\n-----END PUBLIC KEY-----\r?\n"


def require(holds, otherwise=ValueError):
    if not holds:
        raise otherwise


def attempt(bad, malformed, call, *args, missing=28, always=None):
    """Return the result of the call. If it fails, return None and add its status to `bad`.

    The status is `always`, or depends on the kind of fault.
    """
    try:
        return call(*args)
    except (OSError, ValueError, RuntimeError, InvalidSignature) as fault:  # RuntimeError: nested too deep for json
        code = {FileNotFoundError: missing, NotADirectoryError: missing, IsADirectoryError: 31, NotImplementedError: 26}
        bad.add(always or code.get(type(fault), 32 if isinstance(fault, OSError) else malformed))


def within(name, action, *args, folder=None):
    """Call `action` with the descriptor of `name`, which must not be a link."""
    opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    try:
        return action(opened, *args)
    finally:
        os.close(opened)


def slurp(folder, name, most=-1):
    """Return the bytes of a file below a folder's descriptor, at most `most` of them."""
    head, _, rest = name.partition("/")
    # The kind is checked before the file is opened, because opening a device may have side effects.
    require((stat.S_ISDIR if rest else stat.S_ISREG)(os.lstat(head, dir_fd=folder).st_mode), IsADirectoryError)
    if rest:
        return within(head, slurp, rest, most, folder=folder)
    return within(head, lambda opened: os.fdopen(opened, "rb", closefd=False).read(most), folder=folder)


def unlisted(folder, prefix, files, folders):
    """Return the paths below a folder that are neither an expected file nor an expected folder."""
    found = []
    for name in os.listdir(folder):
        path = prefix + name
        needed = stat.S_ISDIR(os.lstat(name, dir_fd=folder).st_mode) and path in folders
        found += within(name, unlisted, path + "/", files, folders, folder=folder) if needed else {path} - files
    return found


def sha256(data):
    return hashlib.sha256(data).hexdigest()


encode = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def bounded(value, room=16):
    if type(value) not in (dict, list):
        return type(value) is not float and (type(value) is not int or abs(value) < 2**53)
    return room > 0 and all(bounded(item, room - 1) for item in (value.values() if type(value) is dict else value))


def canonical(raw, limit, shape):
    require(len(raw) <= limit and not re.search(rb"[^ -\[\]-~]", raw))  # no backslash, so there are no escapes
    value = json.loads(raw)
    # If a name occurs twice, json keeps one of them, so the bytes differ.
    require(bounded(value) and encode(value) == raw.decode() and fits(value, shape))
    return value


def b64(text):
    data = base64.b64decode(text, validate=True)
    require(base64.b64encode(data).decode() == text)  # refuses spare bits
    return data


# fmt: off
def fits(value, shape):
    """Return whether a value has a shape.

    A dict has exactly these members. [x] is a list of x. A tuple holds alternatives. A range is for integers. A
    function decides. Anything else is a constant.
    """
    return (shape(value) if callable(shape)
            else any(fits(value, one) for one in shape) if type(shape) is tuple
            else type(value) is int and value in shape if type(shape) is range
            else type(value) is type(shape) and (
                all(fits(item, shape[0]) for item in value) if type(shape) is list
                else value == shape if type(shape) is not dict
                else value.keys() == shape.keys() and all(fits(value[name], shape[name]) for name in shape)))
# fmt: on


def text(pattern):
    return lambda value: type(value) is str and re.fullmatch(pattern, value) is not None


def decimal(low, high):
    return lambda value: NUMBER(value) and repr(float(value)) == value and low <= float(value) <= high


def mapping(name, item):
    return lambda value: type(value) is dict and fits([*value], [name]) and fits([*value.values()], [item])


# fmt: off
PART, NUMBER = r"[A-Za-z0-9_](?:[A-Za-z0-9._+-]*[A-Za-z0-9_+-])?", text(r"-?[0-9]+(\.[0-9]+)?(e[+-][0-9]+)?")
NAME, TEXT, HASH = text(rf"(?=.{{1,200}}\Z)(?!.*\.\.sha256\Z){PART}(?:/{PART})*"), text(".{1,200}"), text("[0-9a-f]{64}")
UUID, TEXT_OR_NULL, COSINE = text("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), (TEXT, None), decimal(-1.01, 1.01)
TIME, COUNT, LAT, LON = range(253402300800), range(2**53), decimal(-90, 90), decimal(-180, 180)
CORPUS = {"tiles_coverage_sha256": HASH, "tile_count": COUNT, "zoom_levels": [range(31)], "area_sha256": HASH,
          "covered": [lambda value: fits(value, [LON]) and len(value) == 4 and LAT(value[0]) and LAT(value[2])],
          "allow_missing": decimal(0, 1), "missing": COUNT}
MODEL = {"model_name": TEXT, "role": ("descriptor", "auxiliary"), "onnx_sha256": HASH, "runtime": TEXT, "engine": NAME,
         "precision": ("fp32", "fp16", "bf16", "int8"), "runtime_version": TEXT, "action_key": HASH}
IDENTITY = {"models": [MODEL], "calibration_sha256": HASH, "corpus": CORPUS, "action_keys": mapping(TEXT, HASH),
            "sector_class": ("active_conflict", "stable_rear"), "flight_id": (UUID, None),
            "takeoff_origin": ({"lat": LAT, "lon": LON, "alt": decimal(-100000, 100000)}, None)}
PARITY = {"engine": NAME, "sample_sha256": HASH, "cosine_min": COSINE, "threshold": COSINE}
PREDICATE = {"schema_version": "1.1", "manifest_hash": HASH, "generation": range(1, 2**53), "identity": IDENTITY,
             "issued_at": TIME, "valid_from": TIME, "valid_until": TIME, "signing_mode": ("dev", "operator"), "target":
             {"arch": TEXT, "isa": TEXT, "sm": TEXT_OR_NULL, "jetpack": TEXT_OR_NULL}, "sizes": mapping(NAME, COUNT),
             "quality": {"parity": [PARITY], "selftest": mapping(TEXT, TEXT)}, "builder": mapping(TEXT, TEXT)}
STATEMENT = {"_type": "https://in-toto.io/Statement/v1", "predicateType": "urn:preflight:cache-manifest:1",
             "subject": [{"name": NAME, "digest": {"sha256": HASH}}], "predicate": PREDICATE}
SIGNATURE, OTHER_VERSION = {"keyid": HASH, "sig": text(".{86}==")}, text(r"(?!1\.1\Z).*")
ENVELOPE = {"payload": text(".*"), "payloadType": "application/vnd.in-toto+json", "signatures": [SIGNATURE]}
# fmt: on


def statement(raw):
    """Return the predicate, the subjects' hashes by name, the paths of all files, and those of all folders."""
    value = canonical(raw, MANIFEST_LIMIT, lambda value: type(value) is dict)
    predicate = value.get("predicate")
    # The version is checked first.
    require(type(predicate) is not dict or not OTHER_VERSION(predicate.get("schema_version")), NotImplementedError)
    require(fits(value, STATEMENT) and predicate["valid_from"] < predicate["valid_until"])
    hashes = {item["name"]: item["digest"]["sha256"] for item in value["subject"]}
    require(list(hashes) == sorted(predicate["sizes"]) != [] and len(hashes) == len(value["subject"]))
    files = ["SHA256SUMS", "manifest.dsse.json", *(n + s for n in [*hashes, "manifest.json"] for s in ("", ".sha256"))]
    folders = {file[: slash.start()] for file in files for slash in re.finditer("/", file)}
    require(len({name.lower() for name in [*files, *folders]}) == len(files) + len(folders))  # no file is a folder
    models, corpus = predicate["identity"]["models"], predicate["identity"]["corpus"]
    require({item["engine"] for item in models + predicate["quality"]["parity"]} <= hashes.keys())
    require(len({model["model_name"] for model in models}) == len(models))
    require(all(float(one["cosine_min"]) >= float(one["threshold"]) for one in predicate["quality"]["parity"]))
    zooms, boxes = corpus["zoom_levels"], [[*map(float, box)] for box in corpus["covered"]]
    require(zooms == sorted(set(zooms)) != [] != boxes and all(s < n and w < e for s, w, n, e in boxes))
    return predicate, hashes, set(files), folders


def load_trust(folder, inside):
    """Return the keys that are not revoked by fingerprint, the revoked fingerprints, and the file mode of allow_dev.

    The mode is 0 if allow_dev is absent. inside: whether the directory is in the cache.
    """
    names = {name: os.lstat(name, dir_fd=folder).st_mode for name in os.listdir(folder)}
    files = {name: slurp(folder, name, TRUST_LIMIT + 1) for name in names if name == "revoked" or name.endswith(".pem")}
    deny = files.pop("revoked", b"")
    revoked = {line.partition("#")[0].strip().lower() for line in deny.decode(errors="replace").splitlines()} - {""}
    require(len(deny) <= TRUST_LIMIT and all(map(HASH, revoked)))
    keys = [b64(match[1].decode()) for match in (re.fullmatch(PEM, pem) for pem in files.values()) if match]
    ys = {int.from_bytes(key[12:], "little") % 2**255 for key in keys}
    require(len(keys) == len(files) > 0 and not inside and max(ys) < P and not ys & {0, 1, P - 1, ODD, P - ODD})
    return {sha256(key): key[12:] for key in keys if sha256(key) not in revoked}, revoked, names.get("allow_dev", 0)


def check_envelope(top, raw, trusted, bad):
    """Check the envelope.

    raw: None if the manifest cannot be read. trusted: None if the trust directory cannot be used.
    """
    value = canonical(slurp(top, "manifest.dsse.json", ENVELOPE_LIMIT + 1), ENVELOPE_LIMIT, ENVELOPE)
    [signature], payload = value["signatures"], b64(value["payload"])
    sig, keyid = b64(signature["sig"]), signature["keyid"]
    attempt(bad, 24, require, raw in (None, payload))
    keys, revoked, _ = trusted or ({}, set(), False)
    attempt(bad, 21 if keyid in revoked else 22, require, keyid in keys or not trusted)
    if keyid in keys:
        signed = b"DSSEv1 28 application/vnd.in-toto+json %d %b" % (len(payload), payload)
        attempt(bad, 24, Ed25519PublicKey.from_public_bytes(keys[keyid]).verify, sig, signed)


def inspect(top, home, trust, bad):
    raw = attempt(bad, 25, slurp, top, "manifest.json", MANIFEST_LIMIT + 1, missing=19)
    require(19 not in bad)
    trusted = attempt(bad, 20, within, trust, load_trust, trust.is_relative_to(home), always=20)
    attempt(bad, 23, check_envelope, top, raw, trusted, bad)
    if raw is None or not (decoded := attempt(bad, 25, statement, raw)):
        return None
    predicate, hashes, files, folders = decoded
    attempt(bad, 27, require, sha256(encode(predicate["identity"]).encode()) == predicate["manifest_hash"])
    attempt(bad, 30, lambda: require(not unlisted(top, "", files, folders)))
    sums = {**hashes, "manifest.json": sha256(raw)}
    lines = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))
    for name, line in [("SHA256SUMS", lines), *((f"{name}.sha256", sums[name]) for name in sums)]:
        found = attempt(bad, 34, slurp, top, name, len(line) + 1, missing=28 if line is lines else 29)
        attempt(bad, 34, require, found in (None, line.encode()))
    for name in hashes:
        data = attempt(bad, 33, slurp, top, name)
        attempt(bad, 33, require, data is None or (len(data), sha256(data)) == (predicate["sizes"][name], hashes[name]))
    attempt(bad, 35, require, not trusted or stat.S_ISREG(trusted[2]) or predicate["signing_mode"] == "operator")
    return predicate


def read(root, trust):
    """Return the exit statuses of all failures, and the predicate if it can be read. root, trust: pathlib paths."""
    bad, home = set(), root.resolve()
    return bad, attempt(bad, 19, within, home, inspect, home, trust.resolve(), bad, always=19)
