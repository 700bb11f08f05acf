"""The benchmarks of the driver on small runs, and their arguments."""

import numpy as np
import pytest

from qdesampler.bench.driver import device_scaling, draw_memory, soak, stopping
from qdesampler.bench.driver import overhead as driver_overhead


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        (draw_memory, ["--draws", "3"], "--draws is at least 4"),
        (driver_overhead, ["--repeats", "0"], "expected at least 1"),
        (stopping, ["--replications", "1"], "--replications of at least 2"),
        (soak, ["--minutes", "nan"], "expected a positive number"),
        (device_scaling, ["--devices", "0"], "expected positive numbers"),
    ],
)
def test_arguments_that_are_none(module, arguments, message, capsys):
    with pytest.raises(SystemExit):
        module.main(arguments)
    assert message in capsys.readouterr().err


def test_growth_is_from_the_second_fifth_to_the_last():
    assert soak.growth([1, 2, 100, 100, 50, 50, 7, 7, 110, 110]) == pytest.approx(0.1)
    assert soak.growth([5.0]) == 0.0


@pytest.mark.parametrize("squares", [True, False])
def test_errors_of_independent_draws_are_as_promised(squares):
    target = stopping.KnownTarget(
        lambda: None, 5, np.full(5, 2.0 if not squares else 0.0), np.ones(5), squares
    )
    rng = np.random.default_rng(0)
    errors = [stopping.errors_of(target, rng.normal(target.means, 1.0, (4, 200, 5))) for _ in range(200)]
    assert np.shape(errors) == (200, 10 if squares else 5)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(1.0, abs=0.08)


@pytest.mark.slow
def test_small_runs_are_measured():
    for keep in ("memory", "store"):
        cost = draw_memory.measure_run(keep, 4000, 3)
        assert 0.1 < cost.before <= cost.after < 10
        assert cost.ess > 100
    result = soak.soak(0.1, soak.WAYS, lambda text: None)
    assert result.runs == len(soak.WAYS) * len(result.mebibytes) > 0
    assert soak.soak(0.1, report=lambda text: None).runs == 20
    stopped, fixed = stopping.replicate(stopping.TARGETS["log gamma, NUTS"], 100, 3)
    assert stopped.errors.shape == fixed.errors.shape == (3, 5)
    assert (fixed.draws == np.median(stopped.draws)).all()
    assert np.abs(stopped.errors).max() < 6


@pytest.mark.slow
def test_devices_are_processes_of_their_own():
    seconds, evaluations = device_scaling.measure(device_scaling.TARGETS[0], 2, 2, 50, 20)
    assert seconds > 0
    assert evaluations > 2 * 2 * 70
