"""Commands that are killed while they write are continued by the same line: nothing is lost or left."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import arviz as az
import numpy as np
import pytest

from qdesampler.bench.driver import kills
from qdesampler.cli import main as cli
from qdesampler.cli import sample as sample_command
from qdesampler.diagnostics.reporting import analysis
from tests.support.kernels import GaussianWalk

MODEL = '''"""One number."""

import numpyro
import numpyro.distributions as dist


def model(y):
    x = numpyro.sample("x", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(x, 1), obs=y)
'''
LINE = ["--chains", "2", "--warmup", "20", "--draws", "100", "--checkpoint-every", "30", "--resume"]
MOMENTS = {
    "before the first checkpoint": r"state-0+\.qde:1",
    "between draws and the state that counts them": r"state-0+90\.qde:1",
    "while results are put into their places": r"summary\.csv$:1",
}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "one"
    path.mkdir()
    (path / "model.py").write_text(MODEL)
    (path / "data.json").write_text(json.dumps({"y": 1.0}))
    return path


def names(path):
    return sorted(str(p.relative_to(path)) for p in path.rglob("*"))


def draws(path):
    return az.from_netcdf(path / "posterior.nc")["posterior"]["x"].values


def test_a_killed_sample_is_continued(folder, tmp_path, monkeypatch, capsys):
    line = ["sample", str(folder), *LINE, "--allow-bad"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.killed_command", tmp_path, *MOMENTS.values(), "--", *line],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    signals = [int(text) for text in done.stdout.splitlines() if text.isdigit()]
    assert signals == [signal.SIGKILL] * len(MOMENTS), done.stderr
    monkeypatch.setitem(sample_command.KERNELS, "qde", ("walk", GaussianWalk, ()))
    monkeypatch.setattr(analysis, "draw_plots", lambda run: [])
    assert cli.main([*line, "--out", str(tmp_path / "whole")]) == 0
    assert "holds no run: starting one" in capsys.readouterr().out
    said = ["holds no run: starting one", "continuing", "continuing"]
    for number, expected in enumerate(said):
        out = tmp_path / str(number)
        hidden = list(tmp_path.rglob(f"{number}*/.unfinished*"))
        assert hidden, "the kill left nothing to clear"
        assert cli.main([*line, "--out", str(out)]) == 0
        assert expected in capsys.readouterr().out
        assert np.array_equal(draws(out), draws(tmp_path / "whole"))
        assert [n for n in names(out) if not n.startswith("plots")] == names(tmp_path / "whole")
    assert not list(tmp_path.rglob("**/.unfinished*"))


@pytest.mark.slow
@pytest.mark.parametrize("command", kills.COMMANDS)
def test_every_command_survives_kills_at_any_moment(command):
    done = kills.kill_and_repeat(command, 20)
    assert done.kills >= 15  # the last ones may come after the end
    assert (done.refusals, done.losses, done.leftovers) == ([], [], [])
