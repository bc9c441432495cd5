"""The plan that follows from verdicts, tiles and rates. Fake verdicts replace the stages."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from preflight.run.estimate import expected_sizes
from preflight.run.planning import Planner
from preflight.run.session import Explanation, Stage
from preflight.stages.descriptors import DescriptorSet, Forecast
from preflight.store.cache_layout import CacheLayout
from preflight.trace.record import canonical_json
from preflight.trace.rule import Verdict

CHAIN = ["tiles", "engine:vpr", "descriptors", "index", "selftest", "manifest", "publish"]
CURRENT = Verdict(True)
SIZES = expected_sizes(10, None, 4, 32, 1000)


class Case:
    """A chain of stages with one step each, all current, and ten present tiles."""

    def __init__(self, folder):
        self.layout = CacheLayout(folder / "cache")
        self.layout.coverage.parent.mkdir(parents=True)
        self.layout.coverage.write_bytes(canonical_json({"expected": 12, "present": 10}))
        self.layout.descriptor_set.parent.mkdir(parents=True)
        self.layout.descriptor_set.write_bytes(DescriptorSet("ab" * 32, 10, 4, "cd" * 32, "ef" * 32).encode())
        self.stages = {
            name: Stage(name, (before,) if before else (), ())
            for name, before in zip(CHAIN, [None, *CHAIN[:-1]], strict=True)
        }
        self.verdicts = dict.fromkeys(CHAIN, CURRENT)
        self.recorded = dict.fromkeys(CHAIN, True)
        self.not_embedded = 3
        self.previews = 0
        self.steps = 1

    def explain(self, name):
        return [Explanation(name, self.verdicts[name], None, self.recorded[name])]

    def change(self, name, *reasons):
        self.verdicts[name] = Verdict(False, reasons)

    def preview(self):
        self.previews += 1
        return SimpleNamespace(expected=12, present=None, rows=[object()] * 10)

    def forecast(self, preview, embedded):
        if embedded and self.not_embedded is None:
            raise FileNotFoundError
        units = len(preview.rows) * self.steps**2
        return Forecast(len(preview.rows), units, self.not_embedded if embedded else units)

    def rates(self, **seconds):
        rates = {name: {"seconds": 2.0, "units": 1} for name in CHAIN}
        rates["descriptors"] = {"seconds": 50.0, "units": 100}
        self.layout.rates.write_bytes(canonical_json(rates))

    def plan(self):
        planner = Planner(self, self.preview, self.forecast, "engine:vpr", lambda: 1000, lambda: 4, 32, self.steps)
        return planner.plan()

    def statuses(self):
        return [stage.status for stage in self.plan().stages]


@pytest.fixture
def case(tmp_path):
    return Case(tmp_path)


RUN, MAYBE, NO = "will run", "may be skipped", "up to date"


def test_an_idle_plan_reads_no_tiles(case):
    plan = case.plan()
    assert plan.idle
    assert case.statuses() == [NO] * 7
    assert (plan.tiles_expected, plan.tiles_present, plan.units_to_embed) == (12, 10, 0)
    assert (plan.bytes_needed, plan.seconds) == (0, 0)
    assert plan.bytes_free > 0
    assert case.previews == 0


def test_stages_after_a_changed_one_may_be_skipped(case):
    case.change("descriptors", "batch_size: 8 → 16")
    plan = case.plan()
    assert case.statuses() == [NO, NO, RUN, MAYBE, MAYBE, MAYBE, MAYBE]
    assert [stage.reasons for stage in plan.stages][2:4] == [
        ("descriptors: batch_size: 8 → 16",),
        ("after descriptors",),
    ]
    assert not plan.idle


def test_a_stage_with_its_own_reason_will_run(case):
    case.change("tiles", "area: a → b")
    case.change("index", "m: 32 → 16")
    assert case.statuses() == [RUN, MAYBE, MAYBE, RUN, MAYBE, MAYBE, MAYBE]
    assert case.plan().stages[3].reasons == ("index: m: 32 → 16",)


def test_a_missing_input_is_no_reason_of_its_own(case):
    case.change("index", "output descriptors.faiss is missing")
    case.change("selftest", "/work/index/descriptors.faiss.record.json is not there")
    assert case.statuses()[3:] == [RUN, MAYBE, MAYBE, MAYBE]


def test_stages_that_were_never_built_will_run(case):
    for name in CHAIN[2:]:
        case.change(name, "never built here")
        case.recorded[name] = False
    assert case.statuses() == [NO, NO, *[RUN] * 5]


def test_a_plan_counts_the_units_to_embed(case):
    case.change("tiles", "tile_store_revision: 1 → 2")
    plan = case.plan()
    assert (plan.tiles_expected, plan.tiles_present, plan.units_to_embed) == (12, 10, 3)


@pytest.mark.parametrize("not_embedded", [0, 3, None])
def test_another_engine_embeds_every_tile(case, not_embedded):
    """This holds even if the existing engine has embedded all of them."""
    case.not_embedded = not_embedded
    case.change("engine:vpr", "precision: fp32 → bf16")
    plan = case.plan()
    assert (plan.tiles_present, plan.units_to_embed) == (10, 10)


def test_without_a_descriptor_store_every_tile_is_embedded(case):
    case.not_embedded = None
    case.change("descriptors", "never built here")
    plan = case.plan()
    assert (plan.tiles_present, plan.units_to_embed) == (10, 10)


def test_bytes_are_those_of_the_stages_that_run(case):
    case.change("index", "m: 16 → 32")
    assert case.plan().bytes_needed == SIZES.index + SIZES.generation
    case.change("tiles", "area: a → b")
    everything = SIZES.inventory + 3 * SIZES.descriptors // 10 + SIZES.index + SIZES.generation
    assert case.plan().bytes_needed == everything
    case.change("engine:vpr", "precision: fp32 → bf16")
    assert case.plan().bytes_needed == SIZES.work + SIZES.generation


def test_bytes_and_seconds_are_counted_in_windows(case):
    case.steps = 4
    case.change("engine:vpr", "precision: fp32 → bf16")
    case.change("tiles", "area: a → b")
    case.rates()
    plan = case.plan()
    assert (plan.tiles_present, plan.units, plan.units_to_embed) == (10, 160, 160)
    sizes = expected_sizes(10, 160, 4, 32, 1000)
    assert plan.bytes_needed == sizes.work + sizes.generation
    assert plan.seconds == pytest.approx(6 * 2 + 160 * 0.5)


def test_seconds_follow_from_stored_rates(case):
    case.change("tiles", "tile_store_revision: 1 → 2")
    assert case.plan().seconds is None
    case.rates()
    # Six stages take two seconds each. A hundred tiles took fifty seconds, and three are to be embedded.
    assert case.plan().seconds == pytest.approx(6 * 2 + 3 * 0.5)


def test_damaged_rates_give_no_seconds(case):
    case.change("index", "m: 16 → 32")
    case.layout.rates.write_bytes(b"{")
    assert case.plan().seconds is None
