"""The command line, in process on a model of two parameters, and once as a process of its own."""

import csv
import json
import subprocess
import sys

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from qdesampler.cli import common
from qdesampler.cli import main as cli
from qdesampler.cli import sample as sample_command
from qdesampler.diagnostics import PLOT_NAMES, Plot
from qdesampler.diagnostics.reporting import analysis

MODEL = '''"""A normal mean <b>and</b> scale."""

import numpyro
import numpyro.distributions as dist


def model(y, prior_scale=10.0):
    mean = numpyro.sample("mean", dist.Normal(0, prior_scale))
    scale = numpyro.sample("scale", dist.HalfNormal(5))
    with numpyro.plate("case", len(y)):
        numpyro.sample("y", dist.Normal(mean, scale), obs=y)
'''
DATA = [1.0, 2.5, 0.5, 1.5, 2.0, 3.0, 1.2, 1.9]
DRAWN = (*PLOT_NAMES, "gain", "trial")  # of a QDE run
FILES = {"posterior.nc", "summary.csv", "report.html", *(f"plots/{name}.png" for name in DRAWN)}


def reference(mean):
    """Reference values of `mean`, right for 1.7."""
    values = {"mean": mean, "sd": 0.35, "mean_sq": mean**2 + 0.35**2, "sd_sq": 1.2}
    return {
        "source": "by hand",
        "parameters": {"mean": {**values, "ess": 1e4, "mcse": 0.02, "mcse_sq": 0.07}},
    }


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "models" / "normal"
    path.mkdir(parents=True)
    (path / "model.py").write_text(MODEL)
    (path / "data.json").write_text(json.dumps({"y": DATA}))
    return path


@pytest.fixture
def quick(monkeypatch):
    """Independent draws of the right posterior in place of sampling, one plot in place of seven."""
    calls = []

    class Run(Finished):
        def run(self, key, *, extra_fields, **data):
            calls.append(
                {"kernel": self.sampler, "data": data, "key": key, "progress_bar": self.progress_bar}
            )
            noise = jax.random.normal(key, (2, self.num_chains, self.num_samples))
            self._samples = {"mean": 1.7 + 0.35 * noise[0], "scale": jnp.exp(0.2 * noise[1])}
            self._kwargs, self.rng_key = data, key

    monkeypatch.setattr(sample_command, "MCMC", Run)
    monkeypatch.setattr(analysis, "draw_plots", lambda run: [Plot("trace", "Trace", "", b"\x89PNG")])
    return calls


class Finished:
    """What `to_datatree` reads of a run."""

    _args = ()
    last_state = post_warmup_state = None
    thinning = 1
    chain_method = "vectorized"

    def __init__(self, kernel, *, num_warmup, num_samples, num_chains, progress_bar, **others):
        assert set(others) == {"chain_batch", "devices", "checkpoint", "every", "store", "until"}
        self.sampler, self.progress_bar = kernel, progress_bar
        self.num_chains, self.num_samples, self.num_warmup = num_chains, num_samples, num_warmup

    def get_samples(self, group_by_chain):
        return self._samples

    def get_extra_fields(self, group_by_chain):
        return {"num_evals": jnp.full((self.num_chains, self.num_samples), 3)}


def files(path):
    return {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}


def sample(folder, *options):
    return cli.main(["sample", str(folder), *map(str, options)])


# ------------------------------------------------------------------------------------------ the real thing


def test_sample_from_start_to_end(folder, tmp_path, capsys):
    (folder / "reference.json").write_text(json.dumps(reference(1.7)))
    out = tmp_path / "runs" / "normal"
    code = sample(folder, "--out", out, "--draws", 500, "--warmup", 300, "--seed", 3, "--x64", "--allow-bad")
    assert code == 0
    assert files(out) == FILES
    tree = az.from_netcdf(out / "posterior.nc")
    assert tree["posterior"]["mean"].shape == (4, 500)
    assert tree["posterior"]["mean"].dtype == np.float64
    assert jnp.zeros(()).dtype == np.float32  # --x64 ends with the command
    attrs = tree.attrs
    expected = {"model": "normal", "kernel": "QDE", "seed": 3, "precision": "float64", "num_warmup": 300}
    assert {name: attrs[name] for name in expected} == expected
    with (out / "summary.csv").open() as file:
        rows = {row["parameter"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"mean", "scale"}
    assert float(rows["mean"]["mean"]) == pytest.approx(float(tree["posterior"]["mean"].mean()))
    assert abs(float(rows["mean"]["mean"]) - np.mean(DATA)) < 0.2
    text = capsys.readouterr().out
    assert f"{attrs['warmup_evals']:,} in warm-up, {attrs['sampling_evals']:,} in sampling" in text
    assert "Against reference values\nSource: by hand\n" in text
    assert "ESS bulk" in text
    assert f"Written to {out}" in text
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(DRAWN)
    assert "by hand" in page


def test_a_stopped_run_is_resumed(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(analysis, "draw_plots", lambda run: [])
    options = ("--chains", 2, "--draws", 400, "--warmup", 60, "--quiet", "--allow-bad")
    kept = ("--checkpoint-every", 50)
    assert sample(folder, "--out", tmp_path / "out", *options, *kept, "--until-ess", 20, "--seed", 5) == 0
    draws = az.from_netcdf(tmp_path / "out" / "posterior.nc")["posterior"]["mean"].values
    assert 100 <= draws.shape[1] < 400
    assert sample(folder, "--out", tmp_path / "out", *options, "--resume", "--store") == 0
    tree = az.from_netcdf(tmp_path / "out" / "posterior.nc")
    assert tree.attrs["seed"] == 5  # the run's, not the default of this command
    whole = tree["posterior"]["mean"].values
    assert whole.shape == (2, 400)
    assert np.array_equal(whole[:, : draws.shape[1]], draws)
    stored = xr.open_datatree(tmp_path / "out.zarr", engine="zarr", consolidated=False)
    assert np.array_equal(stored["posterior"]["mean"], whole)
    assert sample(folder, "--out", tmp_path / "out", *options, *kept, "--overwrite") == 2
    assert "holds a run already" in capsys.readouterr().err
    assert sample(folder, "--out", tmp_path / "third", *options, "--devices", 99) == 2
    assert "this process sees" in capsys.readouterr().err


@pytest.mark.slow
def test_nuts_reports_its_warmup_too(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(analysis, "draw_plots", lambda run: [])
    out = tmp_path / "out"
    options = ("--kernel", "nuts", "--chains", 2, "--draws", 20, "--warmup", 30, "--quiet", "--allow-bad")
    assert sample(folder, "--out", out, *options) == 0
    tree = az.from_netcdf(out / "posterior.nc")
    assert tree.attrs["kernel"] == "NUTS"
    stats = {"lp", "energy", "acceptance_rate", "step_size", "diverging", "num_evals"}
    assert set(tree["sample_stats"].data_vars) == stats
    assert tree.attrs["sampling_evals"] == int(tree["sample_stats"]["num_evals"].sum())
    assert tree.attrs["warmup_evals"] > 2 * 30


def test_as_a_process(folder, tmp_path):
    command = [sys.executable, "-m", "qdesampler", "models", str(folder.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "normal  A normal mean <b>and</b> scale.\n"


# ------------------------------------------------------------------------------------------ verdicts


def test_good_draws_exit_with_zero(folder, tmp_path, quick, capsys):
    assert sample(folder, "--out", tmp_path / "out") == 0
    assert "Good: nothing speaks" in capsys.readouterr().out
    assert np.array_equal(quick[0]["data"]["y"], DATA)
    assert type(quick[0]["kernel"]).__name__ == "QDE"
    assert quick[0]["progress_bar"] is False  # no terminal here
    assert files(tmp_path / "out") == {"posterior.nc", "summary.csv", "report.html", "plots/trace.png"}


def test_bad_draws_exit_with_one_and_are_kept(folder, tmp_path, quick, capsys):
    assert sample(folder, "--out", tmp_path / "out", "--draws", 40) == 1
    assert "- The effective sample size is below 400" in capsys.readouterr().out
    assert (tmp_path / "out" / "report.html").is_file()
    assert sample(folder, "--out", tmp_path / "allowed", "--draws", 40, "--allow-bad") == 0


def test_quiet_prints_reasons_only(folder, tmp_path, quick, capsys):
    assert sample(folder, "--out", tmp_path / "a", "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert sample(folder, "--out", tmp_path / "b", "--quiet", "--draws", 40) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("- ")


def test_wrong_reference_values_are_a_bad_verdict(folder, tmp_path, quick, capsys):
    (folder / "reference.json").write_text(json.dumps(reference(1.7)))
    assert sample(folder, "--out", tmp_path / "right") == 0
    (folder / "reference.json").write_text(json.dumps(reference(2.0)))
    assert sample(folder, "--out", tmp_path / "wrong") == 1
    assert "standard errors away from the reference values" in capsys.readouterr().out
    assert "away from the reference" in (tmp_path / "wrong" / "report.html").read_text()


def test_too_few_draws_are_not_compared(folder, tmp_path, quick, capsys):
    (folder / "reference.json").write_text(json.dumps(reference(1.7)))
    assert sample(folder, "--out", tmp_path / "out", "--draws", 4) == 1
    out = capsys.readouterr().out
    assert "not compared: mean has 4 draws a chain" in out
    assert "4 draws in a chain say nothing" in out


def test_own_data_have_no_reference(folder, tmp_path, quick, capsys):
    (folder / "reference.json").write_text(json.dumps(reference(9.0)))
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"y": [5.0, 6.0]}))
    assert sample(folder, "--data", own, "--out", tmp_path / "out") == 0
    assert "reference" not in capsys.readouterr().out
    assert np.array_equal(quick[0]["data"]["y"], [5.0, 6.0])


def test_the_seed_decides(folder, tmp_path, quick):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        sample(folder, "--out", tmp_path / name, "--seed", seed, "--quiet")
    a, b, c = ((tmp_path / name / "summary.csv").read_bytes() for name in "abc")
    assert a == b != c


# ------------------------------------------------------------------------------------------ bad input


def test_a_folder_with_results_is_kept(folder, tmp_path, quick, capsys):
    out = tmp_path / "out"
    (out / "plots").mkdir(parents=True)
    (out / "notes.txt").write_text("mine")
    (out / "plots" / "rank.png").write_text("of the last run")
    assert sample(folder, "--out", out) == 2
    assert "is not empty" in capsys.readouterr().err
    assert quick == []  # found before sampling
    assert sample(folder, "--out", out, "--overwrite") == 0
    assert files(out) == {"notes.txt", "posterior.nc", "summary.csv", "report.html", "plots/trace.png"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--chains", "0"], "argument --chains: 0 is too small; expected at least 1"),
        (["--draws", "0"], "argument --draws: 0 is too small"),
        (["--warmup", "-1"], "argument --warmup: -1 is too small; expected at least 0"),
        (["--draws", "many"], "argument --draws: invalid integer value: 'many'"),
        (["--seed", "-1"], "argument --seed: -1 is no seed"),
        (["--kernel", "hmc"], "argument --kernel: invalid choice: 'hmc'"),
    ],
)
def test_wrong_arguments(folder, tmp_path, options, message, capsys):
    with pytest.raises(SystemExit) as stop:
        sample(folder, "--out", tmp_path / "out", *options)
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def refused(capsys, code=2):
    """The one line on stderr."""
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("qdesampler: ")
    assert "Traceback" not in err
    return err


def test_a_path_without_a_model(folder, tmp_path, capsys):
    assert sample(folder.parent / "norma", "--out", tmp_path / "out") == 2
    assert "Did you mean normal?" in refused(capsys)
    assert cli.main(["models", str(tmp_path / "none")]) == 2
    assert "not an existing folder" in refused(capsys)
    assert cli.main(["models", str(folder)]) == 0  # model.py is a model in a file of its own
    assert cli.main(["models", str(tmp_path)]) == 2
    assert "holds no models" in capsys.readouterr().err


def test_data_without_a_field(folder, tmp_path, capsys):
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"prior_scale": 1.0}))
    assert sample(folder, "--data", own, "--out", tmp_path / "out") == 2
    assert "needs y, missing from the data" in refused(capsys)
    assert sample(folder, "--data", tmp_path / "none.json", "--out", tmp_path / "out") == 2
    assert "none.json cannot be read" in refused(capsys)
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_no_folder(folder, tmp_path, capsys):
    path = tmp_path / "file"
    path.write_text("")
    assert sample(folder, "--out", path, "--overwrite") == 2
    assert "is a file" in refused(capsys)
    assert sample(folder, "--out", path / "below") == 2
    assert "cannot be written" in refused(capsys)


def test_a_model_that_fails(folder, tmp_path, capsys):
    (folder / "model.py").write_text(MODEL.replace("obs=y", "obs=y + missing"))
    assert sample(folder, "--out", tmp_path / "out") == 2
    assert "normal cannot be sampled: NameError: name 'missing'" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
    with pytest.raises(common.InputError):
        sample(folder, "--out", tmp_path / "out", "--debug")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OSError("disk full"), 3, "failure: OSError: disk full (--debug"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=["failure", "interrupt"],
)
def test_nothing_half_written_is_left(folder, tmp_path, quick, monkeypatch, capsys, error, code, message):
    def broken(*args, **kwargs):
        raise error

    monkeypatch.setattr(sample_command, "report", broken)
    assert sample(folder, "--out", tmp_path / "out", "--quiet") == code
    assert message in refused(capsys)
    assert not (tmp_path / "out").exists()


def test_help_names_the_exit_codes(capsys):
    for command in ([], ["sample"]):
        with pytest.raises(SystemExit) as stop:
            cli.main([*command, "--help"])
        assert stop.value.code == 0
        assert "something speaks against the draws" in capsys.readouterr().out


def test_a_model_file_that_is_not_python(tmp_path, capsys):
    (tmp_path / "broken.py").write_text("def model(:\n")
    (tmp_path / "fine.py").write_text("def model():\n    pass\n")
    assert cli.main(["models", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == ["broken.py  (not valid Python)", "fine.py"]
