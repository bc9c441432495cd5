"""Properties of the signed format, for any manifest that a build could write."""

from __future__ import annotations

import contextlib
import hashlib
import math

import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from takeoff import canonical, envelope, layout, manifest, names
from takeoff import tiles_coverage as coverage
from takeoff.errors import VerificationError

PLAIN = "".join(chr(code) for code in range(32, 127) if chr(code) not in '"\\')
texts = st.text(PLAIN, min_size=1, max_size=30)
hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)
integers = st.integers(0, canonical.SAFE_INTEGER)


def decimals(low: float, high: float) -> st.SearchStrategy[str]:
    return st.floats(low, high).map(repr)


@st.composite
def boxes(draw):
    south, west = draw(st.floats(-90, 89)), draw(st.floats(-180, 179))
    north = draw(st.floats(math.nextafter(south, 91), 90))
    east = draw(st.floats(math.nextafter(west, 181), 180))
    return repr(south), repr(west), repr(north), repr(east)


parts = st.from_regex(r"[a-z0-9_][a-z0-9._+-]{0,20}[a-z0-9_]", fullmatch=True)
subject_names = st.lists(st.tuples(st.sampled_from(["", "engines/", "deep/er/"]), parts).map("".join), min_size=1)


def _clash_free(found: list[str]) -> bool:
    try:
        names.check_names(found)
    except VerificationError:
        return False
    return True


def _passed(parity: manifest.Parity) -> manifest.Parity:
    """Return the parity with its two numbers in the order in which the gate passes."""
    low, high = sorted((parity.cosine_min, parity.threshold), key=float)
    return parity._replace(cosine_min=high, threshold=low)


@st.composite
def manifests(draw):
    listed = draw(subject_names.map(lambda found: sorted(set(found))).filter(_clash_free))
    engine = st.sampled_from(listed)
    models = draw(
        st.lists(
            st.builds(
                manifest.Model,
                texts,
                st.sampled_from(["descriptor", "auxiliary"]),
                hashes,
                st.sampled_from(["fp32", "fp16", "bf16", "int8"]),
                texts,
                texts,
                engine,
                hashes,
            ),
            max_size=3,
            unique_by=lambda model: model.model_name,
        )
    )
    corpus = manifest.Corpus(
        draw(hashes),
        draw(integers),
        tuple(sorted(draw(st.sets(st.integers(0, 30), min_size=1)))),
        draw(hashes),
        tuple(draw(st.lists(boxes(), min_size=1, max_size=3))),
        draw(decimals(0, 1)),
        draw(integers),
    )
    origins = st.builds(manifest.Origin, decimals(-90, 90), decimals(-180, 180), decimals(-1e5, 1e5))
    identity = manifest.Identity(
        tuple(models),
        draw(hashes),
        corpus,
        draw(st.sampled_from(["active_conflict", "stable_rear"])),
        draw(st.none() | origins),
        draw(st.none() | st.uuids().map(str)),
        draw(st.dictionaries(texts, hashes, max_size=4)),
    )
    begin = draw(st.integers(0, 2**33))
    parity = st.builds(manifest.Parity, engine, hashes, decimals(-1, 1), decimals(-1, 1)).map(_passed)
    return manifest.Manifest(
        subjects={name: draw(hashes) for name in listed},
        manifest_hash=manifest.identity_hash(identity),
        generation=draw(st.integers(1, canonical.SAFE_INTEGER)),
        issued_at=draw(st.integers(0, 2**33)),
        valid_from=begin,
        valid_until=begin + draw(st.integers(1, 2**33)),
        signing_mode=draw(st.sampled_from(["dev", "operator"])),
        identity=identity,
        sizes={name: draw(integers) for name in listed},
        target=manifest.Target(draw(texts), draw(texts), draw(st.none() | texts), draw(st.none() | texts)),
        builder=draw(st.dictionaries(texts, texts, max_size=4)),
        quality=manifest.Quality(tuple(draw(st.lists(parity, max_size=2))), draw(st.dictionaries(texts, texts))),
    )


@settings(max_examples=25, deadline=None)
@given(manifests())
def test_a_manifest_survives_its_bytes(made):
    data = manifest.encode(made)
    assert manifest.decode(data) == made
    assert manifest.encode(manifest.decode(data)) == data
    assert rfc8785.dumps(canonical.decode(data, len(data))) == data
    assert envelope.decode(envelope.encode(envelope.Envelope(data, "ab" * 32, b"\0" * 64)), 10**9).payload == data


@settings(max_examples=25, deadline=None)
@given(manifests(), st.data())
def test_a_changed_byte_is_refused_or_is_another_manifest(made, data):
    good = manifest.encode(made)
    place = data.draw(st.integers(0, len(good) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != good[place]))
    try:
        other = manifest.decode(good[:place] + bytes([byte]) + good[place + 1 :])
    except VerificationError:
        return
    assert other != made  # a manifest has only one encoding


@settings(max_examples=25, deadline=None)
@given(manifests())
def test_the_file_set_has_no_twins_and_holds_every_determined_file(made):
    files = layout.expected_files(made)
    assert len({name.lower() for name in files}) == len(files) == 2 * len(made.subjects) + 4
    assert set(layout.determined_files(made, "00" * 32)) == files - set(made.subjects) - {
        names.MANIFEST,
        names.ENVELOPE,
    }


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-canonical.SAFE_INTEGER, canonical.SAFE_INTEGER) | st.text(PLAIN),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(PLAIN), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(json_values)
def test_canonical_json_is_rfc_8785(value):
    data = canonical.encode(value)
    assert data == rfc8785.dumps(value)
    assert canonical.decode(data, len(data)) == value


@settings(deadline=None)
@given(st.binary(max_size=60) | st.text('{}[]",:01.eE-ntrufalse ').map(str.encode))
def test_any_bytes_decode_or_are_refused_by_our_own_error(data):
    for decode in (manifest.decode, lambda it: envelope.decode(it, 100), lambda it: canonical.decode(it, 100)):
        with contextlib.suppress(VerificationError):
            decode(data)


sources = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5)
tiles = st.tuples(st.integers(0, 22), st.floats(-85, 85), st.floats(-180, 180), sources, hashes)
tile_sets = st.lists(tiles, unique_by=lambda tile: tile[:4], max_size=8)


@settings(deadline=None)
@given(tile_sets.flatmap(lambda rows: st.tuples(st.just(rows), st.permutations(rows))))
def test_the_coverage_aggregate_does_not_depend_on_the_order(pair):
    rows, shuffled = pair
    lines = [f"{zoom}|{lat!r}|{lon!r}|{source}|{digest}\n" for zoom, lat, lon, source, digest in sorted(rows)]
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert coverage.aggregate(shuffled) == (len(rows), expected)


def _places(value, path=()):
    yield path
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield from _places(member, (*path, key))


@settings(max_examples=60, deadline=None)
@given(manifests(), json_values, st.data())
def test_any_value_put_anywhere_is_refused_by_our_own_error_or_is_another_manifest(made, value, data):
    statement = canonical.decode(manifest.encode(made), manifest.MAX_BYTES)
    path = data.draw(st.sampled_from(list(_places(statement))))
    before = parent = {"root": statement}
    for key in ("root", *path)[:-1]:
        parent = parent[key]
    parent[("root", *path)[-1]] = value
    try:
        changed = canonical.encode(before["root"])
        other = manifest.decode(changed)
    except VerificationError:
        return
    assert manifest.encode(other) == changed
    assert (other == made) == (changed == manifest.encode(made))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=80), hashes, st.binary(min_size=64, max_size=64), json_values, st.data())
def test_any_value_put_into_an_envelope_is_refused_or_is_another_envelope(payload, keyid, signature, value, data):
    made = envelope.Envelope(payload, keyid, signature)
    sealed = canonical.decode(envelope.encode(made), 10**6)
    path = data.draw(st.sampled_from(list(_places(sealed))))
    before = parent = {"root": sealed}
    for key in ("root", *path)[:-1]:
        parent = parent[key]
    parent[("root", *path)[-1]] = value
    try:
        changed = canonical.encode(before["root"])
        other = envelope.decode(changed, 10**6)
    except VerificationError:
        return
    assert envelope.encode(other) == changed
