from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from preflight.engine.file_names import EngineName, model_name_problem
from preflight.engine.runtimes import RUNTIMES
from preflight.errors import EngineBuildError

_MODELS = st.from_regex(r"[a-z0-9]{1,8}(_[a-z0-9]{1,8}){0,4}", fullmatch=True)
_VERSIONS = st.from_regex(r"[0-9]{1,4}(\.[0-9]{1,3}){0,3}", fullmatch=True)
_RUNTIMES = st.sampled_from(RUNTIMES.rows)
_PRECISIONS = st.sampled_from(["fp32", "fp16", "bf16", "int8"])
_CPU = st.fixed_dictionaries({"isa": st.from_regex(r"[a-z0-9]{1,6}(\.[a-z0-9]{1,3})?", fullmatch=True)})
_GPU = st.fixed_dictionaries({"sm": st.from_regex(r"[0-9]{2,3}", fullmatch=True), "jetpack": st.none() | _VERSIONS})
_NAMES = st.builds(
    lambda model, runtime, version, precision, where: EngineName(model, runtime, version, precision, **where),
    _MODELS,
    _RUNTIMES,
    _VERSIONS,
    _PRECISIONS,
    _CPU | _GPU,
)


@given(_NAMES)
def test_parses_what_it_prints(name):
    assert EngineName.parse(str(name)) == name


@given(_NAMES, _NAMES)
def test_two_engines_never_share_a_name(one, other):
    assert (str(one) == str(other)) == (one == other)


@given(_NAMES, st.integers(0, 80), st.sampled_from("aZ0_-. /é\n"))
def test_a_changed_name_is_refused_or_prints_as_it_stands(name, at, letter):
    text = str(name)
    changed = text[: at % len(text)] + letter + text[at % len(text) + 1 :]
    try:
        parsed = EngineName.parse(changed)
    except EngineBuildError:
        return
    assert str(parsed) == changed


@given(st.text(max_size=30))
def test_any_model_name_is_either_refused_or_carried(model):
    if model_name_problem(model) is None:
        name = EngineName(model, RUNTIMES.rows[0], "1.0", "fp32", isa="avx2")
        assert EngineName.parse(str(name)).model == model
