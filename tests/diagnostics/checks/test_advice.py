"""The code in the advice of a finding is code: it is parsed and run here."""

import ast
import re
from types import SimpleNamespace

import arviz as az
import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import qdesampler.plots
from qdesampler import QDE, AnnealedQDE
from qdesampler.diagnostics import diagnose
from qdesampler.diagnostics.checks import ladder
from qdesampler.diagnostics.checks.target import _virial
from qdesampler.infer.model.scores import RunScores

RNG = np.random.default_rng(0)
GOOD = RNG.normal(size=(4, 500))


def model():
    numpyro.sample("x", dist.Normal(0, 1))


NAMES = {
    "AnnealedQDE": AnnealedQDE,
    "MCMC": lambda **settings: settings,  # the arguments are those of a driver
    "dist": dist,
    "lower": 0.5,
    "model": model,
    "mcmc": None,
    "numpyro": numpyro,
}


def code(finding):
    """The pieces of code in the advice that are calls or arguments."""
    return [text for text in re.findall(r"`([^`]+)`", finding.advice) if re.search(r"[=(]", text)]


def run(text):
    """The value of a call; arguments alone are those of a kernel or a driver."""
    if not re.match(r"\w+=", text):
        return eval(text, dict(NAMES))
    call = f"QDE(model, {text})" if text.startswith("init_strategy") else f"MCMC({text})"
    return eval(call, NAMES | {"QDE": QDE})


def of_tree(code, values, **attrs):
    tree = az.from_dict({"posterior": {"x": GOOD, "y": values}})
    tree["posterior"]["y"].attrs["site_kind"] = "latent"
    tree.attrs.update(attrs)
    (finding,) = (finding for finding in diagnose(tree) if finding.code == code)
    return finding


@pytest.mark.parametrize(
    ("name", "values", "attrs", "pieces"),
    [
        ("constant", np.full((4, 500), 2.0), {}, 1),
        (
            "no_ground_state",
            GOOD,
            {"solve_outcome": "no normalisable ground state", "solve_bounded": 0},
            2,
        ),
        ("edges", GOOD, {"density_edges": 1}, 1),
    ],
)
def test_advice_on_a_tree_is_code_that_runs(name, values, attrs, pieces):
    found = [run(text) for text in code(of_tree(name, values, **attrs))]
    assert len(found) == pieces
    for law in found:
        if isinstance(law, dist.Distribution):
            draws = np.asarray(law.sample(jax.random.key(0), (1000,)))
            assert np.isfinite(draws).all()
            assert name != "edges" or draws.min() >= NAMES["lower"]
        else:
            assert isinstance(law, QDE)


def cut_ladder(rate):
    return SimpleNamespace(
        betas=np.tile(np.linspace(0, 1, 4), (2, 1)),
        swap_rates=np.full((2, 3), rate),
        specific_heat=np.ones((2, 3)),
    )


def test_a_ladder_that_jumps_is_given_twice_the_rungs():
    finding = ladder._first_order(cut_ladder(0.01))
    kernel = run(code(finding)[0])
    assert isinstance(kernel, AnnealedQDE)
    assert "num_rungs=8" in finding.advice
    assert ladder._first_order(cut_ladder(0.5)) is None


@pytest.mark.parametrize("wrong_gradient", [False, True])
def test_a_failed_virial_identity_asks_for_four_times_the_draws_or_for_the_gradient(wrong_gradient):
    positions = GOOD[..., None]
    scores = RunScores(positions=positions, scores=-2 * positions, evaluations=0, labels=("x",))
    more, moving = "`num_samples=2000`", np.array([True])
    finding = _virial(scores, moving, ("x",), more, wrong_gradient=wrong_gradient).finding
    pieces = code(finding)
    if wrong_gradient:
        assert pieces == []
        assert "gradient" in finding.advice
        return
    assert run(pieces[0]) == {"num_samples": 2000}
    assert callable(qdesampler.plots.save_plots)
    assert ast.parse(pieces[1]).body[0].value.func.attr == "save_plots"
    assert isinstance(run(pieces[2]), AnnealedQDE)
    right = scores._replace(scores=-positions)
    assert _virial(right, moving, ("x",), more, wrong_gradient=False).finding is None
