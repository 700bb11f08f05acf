"""The plan of the warm-up: for every length and setting it is in order, consistent, and ends frozen."""

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qdesampler.kernels.adaptation.schedule import (
    DESCENT_EVALUATIONS,
    SMALLEST_SOLVE,
    Row,
    WarmupPlanSettings,
    make_warmup_plan,
)

SETTINGS = st.builds(
    WarmupPlanSettings,
    solve=st.booleans(),
    adapt_metric=st.booleans(),
    search_length=st.booleans(),
    max_steps=st.sampled_from([(1023, 1023), (31, 1023), (1023, 7)]),
    chains=st.sampled_from([1, 2, 4, 64, 5000]),
)
DEFAULT = WarmupPlanSettings(True, True, True, (31, 1023), 4)


def rows(plan, bit):
    return np.flatnonzero(plan.flags & bit)


@settings(max_examples=300, deadline=None)
@given(num_warmup=st.integers(0, 5000), chosen=SETTINGS)
@example(num_warmup=0, chosen=DEFAULT)
@example(num_warmup=1, chosen=DEFAULT)
@example(num_warmup=39, chosen=DEFAULT)
@example(num_warmup=40, chosen=DEFAULT)
@example(num_warmup=60, chosen=DEFAULT._replace(solve=False))
def test_laws_of_every_plan(num_warmup, chosen):
    plan = make_warmup_plan(num_warmup, chosen)
    flags, limit = plan.flags, plan.steps_limit
    warm, kept = chosen.max_steps
    assert flags.shape == limit.shape
    assert flags[-1] == 0
    assert limit[-1] == kept
    assert np.all(flags[:-1] != 0)
    assert np.all((limit[:-1] >= 1) & (limit[:-1] <= warm))
    tried = chosen.solve and num_warmup >= SMALLEST_SOLVE
    assert (plan.rounds > 0) == tried
    begin = (0, plan.rounds, plan.local, plan.tune, plan.refine, plan.rest, flags.size - 1)
    if not tried:
        # local adaptation only: a row an iteration, walked straight on
        assert flags.size == num_warmup + 1
        solving = Row.DESCEND | Row.ROUND | Row.REFINE | Row.MEASURE | Row.REST
        assert not np.any(flags & solving)
    else:
        assert all(a < b for a, b in zip(begin, begin[1:], strict=False))
        marks = (Row.DESCEND, Row.ROUND, Row.ADAPT, Row.ADAPT, Row.REFINE, Row.REST)
        for bit, first, last in zip(marks, begin, begin[1:], strict=False):
            assert np.all(flags[first:last] & bit)
        assert plan.rest == flags.size - 2
        # no straight way is longer than the warm-up: descents, rounds and local adaptation fit into it
        assert plan.tune <= num_warmup
        assert not np.any(flags[: plan.local] & (Row.ADAPT | Row.FREEZE))
        assert plan.descent_stages * plan.rounds >= DESCENT_EVALUATIONS
    # only the ends of the local adaptation and of the refinement freeze
    ends = [plan.tune - 1, plan.rest - 1] if tried else [num_warmup - 1] * (num_warmup > 0)
    assert rows(plan, Row.FREEZE).tolist() == ends
    # what is refitted outside the rounds was recorded, and nothing is refitted while the length is searched
    assert np.all(flags[rows(plan, Row.REFIT)] & Row.RECORD)
    searched = rows(plan, Row.SEARCH)
    assert chosen.search_length or not searched.size
    if searched.size:
        local = rows(plan, Row.REFIT)
        local = local[(local >= plan.local) & (local < plan.tune)] if tried else local
        assert not local.size or searched.min() > local.max()
        ended = rows(plan, Row.END_SEARCH)
        assert ended[0] == searched.max()
        assert ends[0] - ended[0] >= 8


def test_the_metric_alone_can_be_left_out():
    plan = make_warmup_plan(200, WarmupPlanSettings(False, False, True, (31, 31), 1))
    assert not rows(plan, Row.RECORD).size
    assert not rows(plan, Row.REFIT).size
    assert rows(plan, Row.SEARCH).size
