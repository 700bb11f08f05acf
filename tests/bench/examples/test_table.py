"""The arithmetic of the table, on made-up runs."""

import math
from typing import Any

import pytest

from qdesampler.bench.examples.process import Run
from qdesampler.bench.examples.table import bars, compare, read_runs, to_csv, to_markdown
from qdesampler.bench.harness.record import Record, Settings

pytestmark = pytest.mark.contract


def made_up(kernel, evaluations, ess, cpu=10.0, seed=0, model="a", **more):
    more = {"chains": 4, "status": "ok", "warned": "", "group": "examples"} | more
    record = Record(
        model, kernel, seed, dim=2, warmup_evals=10, sampling_evals=20, ess=ess, ess_sq=ess + 1,
        evals_to_400=evaluations, rhat=1.0, divergences=0, status=more["status"],
    )  # fmt: skip
    return Run(record, more["group"], Settings(more["chains"], 100, 200), cpu, more["warned"])


def crashed(kernel, seed=0):
    return Run(
        Record("a", kernel, seed, status="failed: process ended with code -11"), "examples", Settings(4)
    )


def test_ratios_are_geometric_means_over_the_seeds_of_which_neither_failed():
    runs = [
        made_up("qde", 100.0, 800.0, 5.0, seed=0),
        made_up("nuts", 1000.0, 400.0, 10.0, seed=0),
        made_up("qde", 100.0, 200.0, 5.0, seed=1),
        made_up("nuts", 4000.0, 400.0, 10.0, seed=1),
        made_up("qde", 1.0, 9000.0, seed=2),
        made_up("nuts", 9.0, 1.0, seed=2, status="failed: ESS 1 below 50"),
    ]
    (found,) = compare(runs)
    assert found.saved == pytest.approx(20.0)
    assert found.ess_ratio == pytest.approx(1.0)
    # seed 1 of QDE is charged twice its 5 seconds for 200 of 400 effective draws
    assert found.cpu_ratio == pytest.approx(math.sqrt(0.5 * 1.0))
    assert (found.runs, found.failed, found.peer_runs, found.peer_failed) == (3, 0, 3, 1)
    assert found.lost == found.silent == ()


def test_failures_that_the_peer_does_not_share_and_failures_without_a_warning_are_named():
    bad: dict[str, Any] = {"status": "failed: R-hat 1.2 above 1.05"}
    runs = [
        made_up("qde", 1.0, 60.0, seed=0, **bad),
        made_up("nuts", 1.0, 500.0, seed=0),
        made_up("qde", 1.0, 60.0, seed=1, warned="r_hat!", **bad),
        made_up("nuts", 1.0, 60.0, seed=1, **bad),
        crashed("qde", seed=2),
        made_up("nuts", 1.0, 500.0, seed=2, warned="3 divergences"),
    ]
    (found,) = compare(runs)
    assert (found.failed, found.lost, found.silent) == (3, (0, 2), (0,))
    assert (found.warned, found.peer_warned) == (2, 1)
    assert found.saved is None
    first, *rest, last = bars([found])
    assert first[2] is False
    assert "seed 0" in first[1]
    assert "seed 2" in first[1]
    assert last[1:] == ("a (4 chains, seed 0)", False)
    assert [reached for *_, reached in rest] == [None] * 4


@pytest.mark.parametrize(
    ("ratios", "reached"),
    [
        ({"saved": 10.0, "ess": 1.1, "cpu": 0.7}, [True, True, True, True]),
        ({"saved": 9.0, "ess": 0.9, "cpu": 1.3}, [False, True, False, False]),
        ({"saved": 0.8, "ess": 0.4, "cpu": 0.9}, [False, False, False, False]),
    ],
)
def test_bars(ratios, reached):
    runs = []
    for model, group in (("a", "examples"), ("b", "hierarchies")):
        place: dict[str, Any] = {"model": model, "group": group}
        runs.append(
            made_up("qde", 1000.0 / ratios["saved"], 1000 * ratios["ess"], 10 * ratios["cpu"], **place)
        )
        runs.append(made_up("nuts", 1000.0, 1000.0, 10.0, **place))
    found = bars(compare(runs))
    assert [row[2] for row in found] == [True, *reached, True]


def test_one_bad_model_misses_a_bar_that_the_mean_reaches():
    runs = []
    for model, evaluations in (("a", 1.0), ("b", 1500.0)):
        runs += [made_up("qde", evaluations, 900.0, model=model), made_up("nuts", 1000.0, 900.0, model=model)]
    saved = bars(compare(runs))[2]
    assert saved[2] is False
    assert "(b, 4 chains)" in saved[1]


def test_nothing_is_judged_without_runs():
    assert all(reached is None for *_, reached in bars([]))


def test_files_keep_the_runs(tmp_path):
    runs = [
        made_up("qde", 100.0, 800.0, cpu=5.25, warned='modes!; UserWarning: a "comma", here'),
        made_up("nuts", 1000.0, 400.0, chains=1),
        crashed("nuts"),
    ]
    file = tmp_path / "runs.csv"
    file.write_text(to_csv(runs, {"date": "today"}))
    assert read_runs(file) == runs
    text = to_markdown(read_runs(file), {"date": "today"})
    assert "| a | 4 | 100 |" in text
    assert "bar, 1 chains" in text
    assert "bar, all" in text
    assert "- a, nuts, 4 chains, seed 0: process ended with code -11" in text


def test_other_files_are_refused(tmp_path):
    file = tmp_path / "other.csv"
    file.write_text("model,kernel\na,qde\n")
    with pytest.raises(ValueError, match="expected those of this command"):
        read_runs(file)
