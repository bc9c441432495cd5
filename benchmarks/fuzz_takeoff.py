"""Fuzzes all parts of the verifier that read untrusted bytes, guided by coverage, with atheris (libFuzzer).

    python benchmarks/fuzz_takeoff.py [CORPUS_FOLDER ...] [-max_total_time=3600] [-runs=N] [libFuzzer's other options]

The first byte selects the reader. A reader may only return a value or raise VerificationError. Another exception, a
hang, or a value that does not encode to the same bytes is a finding; libFuzzer writes it to a file. Without a folder
the fuzzer starts from the golden corpus only and keeps nothing.
"""

from __future__ import annotations

import base64
import json
import sys
import tempfile
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[1]
CORPUS = ROOT / "tests" / "vectors" / "caches"
LONGEST = 8192

with atheris.instrument_imports(include=["takeoff"]):
    from takeoff import canonical, command_line, envelope, floor, keys, manifest
    from takeoff.errors import FloorError, VerificationError


def read_manifest(data: bytes) -> None:
    decoded = manifest.decode(data)
    assert manifest.encode(decoded) == data
    assert len(manifest.identity_hash(decoded.identity)) == 64


def read_envelope(data: bytes) -> None:
    assert envelope.encode(envelope.decode(data, LONGEST)) == data


def read_canonical(data: bytes) -> None:
    assert canonical.encode(canonical.decode(data, LONGEST)) == data


def read_key(data: bytes) -> None:
    assert keys.to_pem(keys.from_pem(data)) == data.replace(b"\r\n", b"\n")


def read_floor(data: bytes) -> None:
    FLOOR_FILE.write_bytes(data)
    try:
        floor.read_floor(str(FLOOR_FILE))
    except FloorError:
        return


def read_command(data: bytes) -> None:
    command_line.parse(data.decode("utf-8", "surrogateescape").split("\0"))


READERS = (read_manifest, read_envelope, read_canonical, read_key, read_floor, read_command)


def one_input(data: bytes) -> None:
    """Read one input; libFuzzer calls this."""
    if data:
        try:
            READERS[data[0] % len(READERS)](data[1:])
        except VerificationError:
            return


def write_seeds(folder: Path) -> None:
    """Write the golden corpus and one valid example for each reader."""
    for path in CORPUS.glob("*/*.json"):
        case = json.loads(path.read_text())
        for number, name in enumerate(("manifest.json", "manifest.dsse.json")):
            if "file" in (entry := case["entries"].get(name, {})):
                (folder / f"{path.stem}-{number}").write_bytes(bytes([number]) + base64.b64decode(entry["file"]))
    (folder / "canonical").write_bytes(b'\x02{"a":[1,-2,true,null,"x"],"b":{}}')
    (folder / "key").write_bytes(b"\x03" + keys.to_pem(bytes([5]) * 32))
    (folder / "floor").write_bytes(b'\x04{"issued_at":1,"last_seen":2}')
    (folder / "command").write_bytes(b"\x05cache\0--trust=t\0--expect-position\x000,1\0--timeout=3\0--expect-sm=87")


if __name__ == "__main__":
    # libFuzzer ends the process itself, so nothing here can remove this folder. The system clears it.
    scratch = Path(tempfile.mkdtemp(prefix="fuzz-takeoff-"))
    FLOOR_FILE = scratch / "floor-file"
    (scratch / "seeds").mkdir()
    write_seeds(scratch / "seeds")
    atheris.Setup([*sys.argv, str(scratch / "seeds"), f"-max_len={LONGEST}"], one_input)
    atheris.Fuzz()
