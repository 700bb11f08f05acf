"""The inverse problem of groundwater flow, and the command that samples it."""

import re

import numpy as np
import pytest

from qdesampler.bench.densities.__main__ import main
from qdesampler.bench.densities.groundwater import Groundwater
from qdesampler.bench.densities.methods import gain_of_workers, measure_peer, measure_qde
from qdesampler.bench.densities.nuts_peer import nuts


def test_heads_are_those_of_uniform_ground():
    """Without waves and without the well the head falls linearly from left to right."""
    target = Groundwater(12, 6)
    target._source[:] = 0
    heads = target._solve(np.zeros(6))[0].reshape(12, 12)
    np.testing.assert_allclose(heads, 1 - (np.arange(12)[:, None] + 0.5) / 12 * np.ones(12), rtol=1e-12)


def test_the_adjoint_gives_the_gradient():
    target = Groundwater(12, 6)
    point = np.random.default_rng(0).standard_normal(6)
    _, (score,) = target(point[None])
    steps = 1e-5 * np.eye(6)
    ahead, behind = target(point + steps)[0], target(point - steps)[0]
    np.testing.assert_allclose(score, (ahead - behind) / 2e-5, rtol=1e-5)


def test_both_methods_draw_from_one_posterior_and_all_calls_are_counted():
    target = Groundwater(6, 3, 0.05, 0.6)
    row = measure_qde(target, 200, 0)
    calls = [0]

    def counted(points):
        calls[0] += len(points)
        return target(points)

    run = nuts(counted, 3, 100, 100, 2, dense=False)
    assert calls[0] == run.of_warmup + run.of_draws
    assert run.draws.shape == (2, 100, 3)
    flat = run.draws.reshape(-1, 3)
    errors = np.hypot(row.errors, flat.std(0) / np.sqrt(50))
    assert np.all(np.abs(row.means - flat.mean(0)) < 5 * errors)
    assert row.until(400) > row.of_warmup + row.of_draws


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pymc", "nutpie"])
def test_peers_draw_from_the_same_posterior_and_all_their_calls_are_counted(name):
    pytest.importorskip(name)
    target = Groundwater(6, 3, 0.05, 0.6)
    row, calls = measure_qde(target, 200, 0), [0]

    class Counted:
        dim = 3

        def __call__(self, points):
            calls[0] += len(points)
            return target(points)

    peer = measure_peer(name, Counted(), 150, 100)
    assert calls[0] == peer.of_warmup + peer.of_draws
    assert 400 < peer.of_draws < peer.of_warmup  # more than one evaluation a draw, four chains of 100
    assert peer.ess > 100
    assert np.all(np.abs(row.means - peer.means) < 4 * np.hypot(row.errors, peer.errors))


@pytest.mark.slow  # it starts a process, which imports everything anew
def test_the_cpu_time_of_workers_is_known():
    row = measure_qde(Groundwater(6, 3, 0.05, 0.6), 50, 1)
    alone = measure_qde(Groundwater(6, 3, 0.05, 0.6), 50, 0)
    assert row.method == "QDE, 1 worker"
    np.testing.assert_allclose(row.means, alone.means, rtol=1e-6)
    assert row.cpu > alone.cpu + 0.5  # the start of the worker alone takes more


def test_the_command_prints_a_row_for_each_method(capsys):
    assert main(["--cells", "6", "--parameters", "3", "--ess", "50", "--methods", "qde"]) == 0
    text = capsys.readouterr().out
    assert "3 parameters, noise 0.02" in text
    assert re.findall(r"^\| (\w.*?) \| [\d,]+ \| [\d,]+ \| 1.0 ", text, re.MULTILINE) == ["QDE"]


def test_the_gain_of_workers_is_counted():
    assert gain_of_workers([4, 100, 1], 1) == 1
    assert gain_of_workers([4, 100, 1], 2) == 105 / (2 + 50 + 1)
    row = measure_qde(Groundwater(6, 3, 0.05, 0.6), 50, 0)
    assert sum(row.batches) == row.of_warmup + row.of_draws


def test_unknown_methods_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--methods", "hmc"])
    assert "expected some of qde, nuts" in capsys.readouterr().err
