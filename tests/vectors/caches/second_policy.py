"""The rest of the second verifier, from docs/manifest-format.md alone: clock, rollback floor, flight, position, host."""

import json

X86 = {"generic": "", "sse4": "sse4_1", "avx2": "avx2", "avx512": "avx512f", "avx512bf16": "avx512f avx512_bf16"}
ISAS = {**X86, "avx512amx": "avx512f amx_tile"}
NO_FLOOR = {"issued_at": 0, "last_seen": 0}


def judge(it, now, floor, expect):
    """The exit statuses of a predicate. floor: bytes or None; expect: flight_id, position, host {arch, flags, sm}, sm."""
    last = NO_FLOOR if floor is None else read_floor(floor)
    return {*statuses(it, now, last or NO_FLOOR, expect), *([40] if last is None else [])}


def read_floor(data):
    try:
        value = json.loads(data)
    except ValueError:
        return None
    whole = isinstance(value, dict) and all(type(number) is int and 0 <= number < 2**53 for number in value.values())
    exact = json.dumps(value, sort_keys=True, separators=(",", ":")).encode() == data
    return value if whole and exact and value.keys() == NO_FLOOR.keys() else None


def statuses(it, now, last, expect):
    if now < last["last_seen"]:
        yield 36
    if not it["valid_from"] <= now <= it["valid_until"]:
        yield 37 if now < it["valid_from"] else 38
    if it["issued_at"] < last["issued_at"]:
        yield 39
    if expect["flight_id"] and expect["flight_id"].lower() != it["identity"]["flight_id"]:
        yield 41
    boxes, (lat, lon) = it["identity"]["corpus"]["covered"], expect["position"] or (None, None)
    if lat is not None and not any(float(s) <= lat <= float(n) and float(w) <= lon <= float(e) for s, w, n, e in boxes):
        yield 42
    target, host, sm = it["target"], expect["host"] or {**it["target"], "arch": None}, expect["sm"]
    isas = {"neon": ""} if host["arch"] == "aarch64" else ISAS
    fit = (
        target["arch"] == host["arch"]
        and target["isa"] in isas
        and set(isas[target["isa"]].split()) <= set(host["flags"])
    )
    if sm not in (None, target["sm"]) or (expect["host"] and not (fit and target["sm"] in (None, host["sm"] or sm))):
        yield 43
