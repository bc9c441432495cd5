"""Policy of the cache format 1.1: clock, rollback floor, flight, position, host.

It is written from docs/manifest-format.md only.
"""

import re

NUMBER = rb"(0|[1-9][0-9]{0,15})"
FLOOR = re.compile(rb'\{"issued_at":' + NUMBER + rb',"last_seen":' + NUMBER + rb"\}")  # the only canonical form
X86 = {"generic": set(), "sse4": {"sse4_1"}, "avx2": {"avx2"}, "avx512": {"avx512f"}}
ISA = {**X86, "avx512bf16": {"avx512f", "avx512_bf16"}, "avx512amx": {"avx512f", "amx_tile"}}


def judge_floor(predicate: dict, now: int, floor: bytes) -> set[int]:
    match = FLOOR.fullmatch(floor)
    if match is None or max(map(int, match.groups())) >= 2**53:
        return {40}
    issued_at, last_seen = map(int, match.groups())
    return ({36} if now < last_seen else set()) | ({39} if predicate["issued_at"] < issued_at else set())


def host_fits(target: dict, host: dict, named: str | None) -> bool:
    needs = ({"neon": set()} if target["arch"] == "aarch64" else ISA).get(target["isa"])
    if target["arch"] != host["arch"] or needs is None or not needs <= set(host["flags"]):
        return False
    told = host["sm"] if host["sm"] is not None else named  # the host's own answer has priority over the command line
    return target["sm"] is None or target["sm"] == told


def judge(predicate: dict, now: int, floor: bytes | None, expect: dict) -> set[int]:
    """Return the exit statuses.

    expect: flight_id, position, host {arch, flags, sm} and sm; None where nothing is expected.
    """
    bad = judge_floor(predicate, now, floor) if floor is not None else set()
    identity, target = predicate["identity"], predicate["target"]
    if now < predicate["valid_from"]:
        bad.add(37)
    if now > predicate["valid_until"]:
        bad.add(38)
    if expect["flight_id"] is not None and expect["flight_id"].lower() != identity["flight_id"]:
        bad.add(41)
    if expect["position"] is not None:
        lat, lon = expect["position"]
        boxes = [map(float, box) for box in identity["corpus"]["covered"]]
        if not any(south <= lat <= north and west <= lon <= east for south, west, north, east in boxes):
            bad.add(42)
    if expect["host"] is not None and not host_fits(target, expect["host"], expect["sm"]):
        bad.add(43)
    if expect["sm"] is not None and expect["sm"] != target["sm"]:  # also if no engine needs a GPU
        bad.add(43)
    return bad
