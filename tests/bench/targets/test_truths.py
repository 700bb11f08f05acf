"""Stored truths: their form, what refuses them, and the command that makes them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qdesampler.bench.harness.outcome import Outcome
from qdesampler.bench.harness.record import Settings
from qdesampler.bench.measurement import measure
from qdesampler.bench.targets import make_truths as truth
from qdesampler.bench.targets import truths
from qdesampler.bench.targets.closed_form import gaussian_moments, standard_gaussian
from qdesampler.bench.targets.hard import brownian_motion, data_digest, funnel
from qdesampler.bench.targets.make_truths import NotConverged, moments_of_draws
from qdesampler.bench.targets.truths import judged_sites, read_truth, unconstrained_truth, write_truth

ENTRIES = {"x[1]": gaussian_moments(1.0), "x[2]": gaussian_moments(2.0)}


def test_what_is_written_is_read(tmp_path):
    write_truth(tmp_path / "new" / "a.npz", ENTRIES, {"draws": 3, "data": "abc"})
    found = read_truth(tmp_path / "new" / "a.npz")
    assert found["parameters"] == ENTRIES
    assert found["settings"] == {"draws": 3, "data": "abc"}


def test_a_truth_of_other_data_is_refused(tmp_path):
    case = brownian_motion()
    assert unconstrained_truth(case, tmp_path) is None
    write_truth(tmp_path / "brownian-32.npz", ENTRIES, {"data": data_digest(case.data)})
    assert unconstrained_truth(case, tmp_path)["parameters"] == ENTRIES
    changed = replace(case, data={**case.data, "y": case.data["y"] + 1})
    command = r"python -m qdesampler\.bench\.targets\.make_truths brownian-32"
    with pytest.raises(ValueError, match=f"make it anew with {command}"):
        unconstrained_truth(changed, tmp_path)
    elsewhere = replace(changed, path=Path("/models/brownian-32"))  # a user's model of the same name
    assert unconstrained_truth(elsewhere, tmp_path) is None


def test_malformed_truths_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected a positive finite number"):
        write_truth(tmp_path / "a.npz", {"x": {**gaussian_moments(1.0), "mcse": 0.0}}, {})
    np.savez(tmp_path / "b.npz", names=np.array(["x"]))
    with pytest.raises(ValueError, match="lacks ess, mcse"):
        read_truth(tmp_path / "b.npz")


def test_judged_sites():
    case = funnel()
    assert judged_sites(case, ("theta", "x")) == ("theta", "standard")
    assert judged_sites(replace(case, path=Path("/models/funnel-20")), ("theta", "x")) == ("theta", "x")
    assert judged_sites(standard_gaussian(), ("x",)) == ("x",)


def test_moments_of_draws():
    draws = {"x": np.random.default_rng(0).standard_normal((4, 4000, 2)) * np.array([1.0, 2.0])}
    entries, rhat = moments_of_draws(draws)
    assert rhat < 1.01
    for name, exact in ENTRIES.items():
        found = entries[name]
        assert abs(found["mean"] - exact["mean"]) < 4 * found["mcse"]
        assert abs(found["mean_sq"] - exact["mean_sq"]) < 4 * found["mcse_sq"]
        assert found["mcse"] == pytest.approx(exact["sd"] / 16000**0.5, rel=0.1)
        assert found["sd_sq"] == pytest.approx(exact["sd_sq"], rel=0.1)
    draws["x"][0, :, 1] += 2.0
    with pytest.raises(NotConverged, match=r"1 of 2 scalars, largest for x\[2\]"):
        moments_of_draws(draws)
    draws["x"][..., 1] = 1.0
    with pytest.raises(NotConverged):
        moments_of_draws(draws)


@pytest.mark.slow
def test_the_command_makes_a_truth_that_the_benchmark_uses(tmp_path, monkeypatch, capsys):
    out = tmp_path / "gaussian-20.npz"
    assert truth.main(["gaussian-20", "--draws", "1500", "--warmup", "300", "--out", str(out)]) == 0
    assert "20 scalars" in capsys.readouterr().out
    case = standard_gaussian()
    found = read_truth(out)
    assert found["settings"]["kernel"] == "numpyro NUTS"
    assert found["settings"]["divergences"] == 0
    for name, entry in found["parameters"].items():
        assert abs(entry["mean_sq"] - 1.0) < 5 * entry["mcse_sq"], name
    monkeypatch.setattr(truths, "FOLDER", tmp_path)

    def exact(case, seed, settings):
        x = np.random.default_rng(seed).standard_normal((4, 500, 20))
        return Outcome({"x": x}, ("x",), 20, 10, np.full((4, 500), 3), 0)

    record = measure(replace(case, reference=None), "exact", 0, Settings(4, 1, 500), {"exact": exact})
    assert record.status == "ok"
    assert record.error_se < 5
    assert 0.15 < record.b2_mean < 1.0  # thousands, at 3 a draw
    assert record.evals_to_400 == pytest.approx(10 + 6000 * 400 / min(record.ess, record.ess_sq))


def test_a_run_that_has_not_converged_stores_nothing(tmp_path, monkeypatch, capsys):
    apart = np.random.default_rng(0).standard_normal((4, 200)) + np.arange(4)[:, None]
    monkeypatch.setattr(truth, "run_nuts", lambda case, settings: ({"x": apart}, 0))
    assert truth.main(["gaussian-20", "--draws", "200", "--out", str(tmp_path / "a.npz")]) == 1
    assert "R-hat is not below 1.01" in capsys.readouterr().err
    assert not (tmp_path / "a.npz").exists()
