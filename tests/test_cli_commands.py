"""`qdesampler ground-state` and `compare`: potentials in one line, kernels side by side, bad input."""

import contextlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.bench.harness.outcome import Outcome
from qdesampler.cli import compare
from qdesampler.cli import main as cli
from qdesampler.cli.common import InputError, Progress
from qdesampler.cli.expression import parse_expression
from qdesampler.diagnostics import plot_comparison

MODEL = '''"""One number."""

import numpyro
import numpyro.distributions as dist


def model(y):
    x = numpyro.sample("x", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(x, 1), obs=y)
'''


# -------------------------------------------------------------------------------------------- expressions


@pytest.mark.parametrize(
    ("text", "point", "value"),
    [
        ("x**4", [2.0], 16.0),
        ("x^2 - 3*x + 1", [-2.0], 11.0),
        ("-x**2", [3.0], -9.0),
        ("(x**2 - 1)**2 + y*z/2", [2.0, 3.0, 4.0], 15.0),
        ("exp(-x1)*cos(pi*x2) + sqrt(abs(x1))", [1.0, 1.0], 1 - np.exp(-1)),
        ("2**x + e*0 + log1p(x) + tanh(0*x)", [3.0], 8 + np.log(4)),
        ("x**-2", [2.0], 0.25),
    ],
)
def test_expressions(text, point, value):
    parsed = parse_expression(text)
    assert parsed.dim == len(point)
    assert float(parsed.value(jnp.array(point))) == pytest.approx(value, rel=1e-6)
    assert np.all(np.isfinite(jax.grad(parsed.value)(jnp.array(point))))


def test_powers_are_smooth_at_zero():
    well = parse_expression("(x**2 - 1)**2").value
    assert float(jax.hessian(well)(jnp.zeros(1))[0, 0]) == pytest.approx(-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no expression"),
        ("x + * 2", "is no expression at character"),
        ("x; y", "is no expression"),
        ("3", "holds no coordinate"),
        ("w**2", "'w' is unknown; there are x, y, z"),
        ("__import__('os').system('true')", "is not allowed"),
        ("open('f')", "open() is unknown"),
        ("x.real", "'x.real' is not allowed"),
        ("[x][0]", "is not allowed"),
        ("(lambda: x)()", "is not allowed"),
        ("x if x else 1", "is not allowed"),
        ("x // 2", "of operators"),
        ("sin(x, y)", "sin() takes one argument"),
        ("sin(*x)", "sin() takes one argument"),
        ("'a' + x", "is no real number"),
        ("True + x", "is no real number"),
        ("1j*x", "is no real number"),
        ("x + 1" + "0" * 400, "too large"),
        ("x" + "+x" * 300, "601 characters"),
        ("(" * 50 + "x" + ")" * 50 + "-" * 50 + "x", "nested more than"),
    ],
)
def test_what_is_no_potential(text, message):
    with pytest.raises(InputError) as error:
        parse_expression(text)
    assert message in str(error.value)


def test_a_tower_of_powers_costs_nothing():
    tower = parse_expression(
        "x + 9**9**9**9"
    )  # infinite in floating point, and no integer of a billion digits
    assert float(tower.value(jnp.ones(1))) == np.inf


def test_coordinates_keep_their_names():
    assert parse_expression("x2**2 + x1").names == ("x1", "x2")
    assert parse_expression("y**2").names == ("x", "y")


# ------------------------------------------------------------------------------------------- ground-state


def test_the_quartic_oscillator(tmp_path, capsys):
    out = tmp_path / "quartic.png"
    assert cli.main(["ground-state", "x**4", "--levels", "3", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "E0 = 1.0603620" in text
    assert "E1 = 3.7996730" in text
    assert out.read_bytes().startswith(b"\x89PNG")
    assert sorted(tmp_path.iterdir()) == [out]
    assert jnp.zeros(()).dtype == np.float32  # double precision ends with the command


@pytest.mark.parametrize("text", ["-x**2 + x**4", "-x**2+x**4", "-(2-x**2)*x**2 / 2", "-exp(-x**2) + x**2"])
def test_potentials_that_begin_with_a_minus(text, capsys):
    assert cli.main(["ground-state", text, "--bounds", "-4.5", "4", "--points", "32"]) == 0
    told = capsys.readouterr().out
    assert cli.main(["ground-state", "--bounds", "-4.5", "4", "--points", "32", f"0 {text}"]) == 0
    levels = [line for line in told.splitlines() if line.startswith("E")]
    assert len(levels) == 3
    assert levels == [line for line in capsys.readouterr().out.splitlines() if line.startswith("E")]


@pytest.mark.parametrize(
    ("text", "bound", "gap"),
    [
        ("-2/cosh(x)**2", [-1.0], 1.0),  # -n(n+1)/cosh^2 has the levels -n^2, ..., -1
        ("-6/cosh(x)**2", [-4.0, -1.0], 3.0),
        ("5 - 2/cosh(x)**2", [4.0], 1.0),
        ("-4 + x**2", [-3.0, -1.0, 1.0], 2.0),  # rises: all levels are bound
    ],
)
def test_only_levels_below_the_continuum_are_bound_states(text, bound, gap, capsys):
    assert cli.main(["ground-state", text, "--bounds", "-12", "12", "--points", "256"]) == 0
    told = capsys.readouterr().out
    levels = [float(line.split()[2]) for line in told.splitlines() if line.startswith("E")]
    np.testing.assert_allclose(levels, bound, atol=1e-4)
    assert ("no further bound state" in told) == (len(bound) < 3)
    (line,) = (line for line in told.splitlines() if line.startswith("gap"))
    assert float(line.split()[-1]) == pytest.approx(gap, abs=1e-4)
    assert ("to the continuum" in line) == (len(bound) == 1)


def test_options_are_no_potentials(capsys):
    for line, message in (
        (["-h"], "usage:"),
        (["--levels", "3"], "required: POTENTIAL"),
        (["-4"], "no coord"),
    ):
        with contextlib.suppress(SystemExit):
            cli.main(["ground-state", *line])
        captured = capsys.readouterr()
        assert message in captured.out + captured.err


def test_a_box_with_walls_and_a_diffusion(capsys):
    options = ["--bounds", "0", "1", "--boundary", "hard", "--diffusion", "0.5", "--points", "128"]
    assert cli.main(["ground-state", "0*x", *options]) == 0
    assert "E0 = 4.93480" in capsys.readouterr().out  # pi^2 / 2


@pytest.mark.slow
def test_no_box_holds_what_falls_at_infinity(capsys):
    assert cli.main(["ground-state", "0 - x**2"]) == 2
    assert "no box up to 64 holds the ground state" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["0 - x**2", "--bounds", "-4", "4"], "of the density, more than 0.01"),
        (["x**4", "--bounds", "1", "-1"], "bounds"),
        (["x**4", "--out", "nowhere/plot.png"], "must end in .png and lie in an existing folder"),
        (["x**4 + y**2 + z**2", "--out", "plot.png"], "one or two coordinates"),
        (["x", "--boundary", "hard"], "needs --bounds"),
        (["import os"], "is no expression"),
    ],
)
def test_ground_states_that_are_refused(arguments, message, capsys):
    assert cli.main(["ground-state", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


# ------------------------------------------------------------------------------------------------ compare


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "one"
    path.mkdir()
    (path / "model.py").write_text(MODEL)
    (path / "data.json").write_text(json.dumps({"y": 1.0}))
    return path


@pytest.fixture
def kernels(monkeypatch):
    """Two kernels that draw at once, one at twice the cost, and one that never moves."""

    def runner(cost, still=False):
        def run(case, seed, settings):
            shape = (settings.chains, settings.draws)
            x = np.random.default_rng(seed).normal(0.5, 0.7, size=shape) * (not still)
            return Outcome({"x": x}, ("x",), 1, 100 * cost, np.full(shape, cost), 0)

        return run

    known = {"cheap": runner(2), "dear": runner(4), "still": runner(1, still=True)}
    monkeypatch.setattr(compare, "KERNELS", known)


def test_kernels_side_by_side(model, kernels, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    assert cli.main(["compare", str(model), "--kernels", "cheap,dear", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line[:5] in ("cheap", "dear ")}
    assert [rows[name][3:5] for name in ("cheap", "dear")] == [["200", "8,000"], ["400", "16,000"]]
    assert {path.name for path in out.iterdir()} == {"comparison.md", "comparison.csv", "comparison.png"}
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_a_kernel_that_fails_is_a_bad_verdict(model, kernels, capsys):
    assert cli.main(["compare", str(model), "--kernels", "cheap,still", "--draws", "50"]) == 1
    assert "failed: a scalar never moved" in capsys.readouterr().out
    assert cli.main(["compare", str(model), "--kernels", "still", "--allow-bad"]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kernels", "cheap,hmc"], "hmc unknown; there are cheap, dear, still"),
        (["--kernels", "cheap", "--seeds", "0,x"], "--seeds"),
        (["--kernels", "cheap", "--seeds=-1"], "-1 is no seed"),
        (["--kernels", "cheap", "--out", __file__], "is a file; expected a folder"),
    ],
)
def test_comparisons_that_are_refused(model, kernels, options, message, capsys):
    assert cli.main(["compare", str(model), *options]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_real_kernels(model, capsys):
    options = ["--kernels", "qde,annealed,nuts", "--draws", "500", "--warmup", "300"]
    assert cli.main(["compare", str(model), *options]) == 0
    assert capsys.readouterr().out.count(" ok") == 3


def test_the_plot_of_a_comparison():
    collection = plot_comparison(["a", "b"], {"evaluations": [100.0, 1000.0]}, backend="none")
    (points,) = (e for e in collection.viz["plot"].item() if e["function"] == "scatter")
    np.testing.assert_allclose(points["x"], [0.0, 1.0])
    with pytest.raises(ValueError, match="needs 2 positive numbers"):
        plot_comparison(["a", "b"], {"evaluations": [1.0, 0.0]})
    with pytest.raises(ValueError, match="nothing to compare"):
        plot_comparison([], {})


def test_progress_is_for_terminals(capsys, monkeypatch):
    with Progress() as progress:
        progress("working")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with Progress() as progress:
        progress("working")
    assert "working" in capsys.readouterr().err
    with Progress(quiet=True) as progress:
        progress("working")
    assert capsys.readouterr().err == ""
