"""The benchmark of large runs on a small one, and its arguments."""

import pytest

from qdesampler.bench.driver import large_runs


@pytest.mark.slow
def test_a_small_run_is_measured():
    cost = large_runs.measure_large_run(2, 60, 3)
    assert list(cost.stages) == ["conversion", "summary", "diagnosis", "report"]
    assert sum(cost.stages.values()) == pytest.approx(cost.seconds, rel=0.05)
    assert 0.05 < cost.gibibytes < 20


@pytest.mark.parametrize("text", ["4x1000", "0x10x10", "axbxc"])
def test_sizes_that_are_none(text, capsys):
    with pytest.raises(SystemExit):
        large_runs.main(["--sizes", text])
    assert "expected CHAINSxDRAWSxPARAMETERS" in capsys.readouterr().err
