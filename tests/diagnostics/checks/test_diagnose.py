"""Sick runs made on purpose, each with its right row, and healthy ones with none."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import HMC, MCMC, NUTS

from qdesampler.backends import ExactEnumeration, IsingProblem
from qdesampler.backends.protocol import Capabilities, LocalBackend
from qdesampler.diagnostics import (
    Check,
    Diagnosis,
    Finding,
    diagnose,
    diagnose_backend,
    read_temperature,
    summary,
)
from qdesampler.infer import QDE, AnnealedQDE, load_model

RNG = np.random.default_rng(0)
SHAPE = (4, 500)


def normal(x):
    return jnp.sum(x**2) / 2


def cauchy(x):
    return jnp.sum(jnp.log1p(x**2))


def wells(x):
    return -jnp.sum(jnp.logaddexp(-((x - 8) ** 2) / 2, -((x + 8) ** 2) / 2))


def cut(x):
    """Normal, NaN below -1."""
    return jnp.sum(x**2 / 2 + 0 * jnp.log(x + 1))


@jax.custom_jvp
def skewed(x):
    return jnp.sum(x**2) / 2


@skewed.defjvp
def _(primals, tangents):
    (x,), (t,) = primals, tangents
    return skewed(x), jnp.sum((2 * x + 0.3) * t)  # not the slope


def stuck(ended):
    x = RNG.normal(size=(*SHAPE, 2))
    x[1] = x[1, 0]
    return ended(normal, x)


def two_modes(ended):
    return ended(wells, RNG.normal(size=(*SHAPE, 1)) + 8 * np.array([1, 1, -1, 1])[:, None, None])


def one_of_two_modes(ended):
    """All chains in one well: they agree with each other."""
    return ended(wells, RNG.normal(size=(*SHAPE, 1)) + 8)


def divergent(ended):
    return ended(normal, RNG.normal(size=(*SHAPE, 2)), diverging=RNG.random(SHAPE) < 0.01)


def funnel(ended):
    v = RNG.normal(size=SHAPE)
    x = np.exp(1.5 * v)[..., None] * RNG.normal(size=(*SHAPE, 4))
    energy = np.cumsum(RNG.normal(size=SHAPE), axis=1)

    def potential(x):
        return x[0] ** 2 / 2 + jnp.sum(x[1:] ** 2) * jnp.exp(-3 * x[0]) / 2 + 6 * x[0]

    return ended(potential, np.concatenate([v[..., None], x], -1), energy=energy)


def heavy_tail(ended):
    return ended(cauchy, RNG.standard_cauchy(size=(*SHAPE, 2)))


def too_short(ended):
    return ended(normal, RNG.normal(size=(4, 30, 2)))


def wrong_gradient(ended):
    return ended(skewed, RNG.normal(size=(*SHAPE, 2)))


def nan_region(ended):
    x = RNG.normal(size=(4, 2000, 1))
    return ended(cut, np.where(x > -1, x, np.abs(x)))


def thinned(ended):
    return ended(normal, RNG.normal(size=(*SHAPE, 2)), thinning=20)


def constant(ended):
    run = ended(normal, np.concatenate([RNG.normal(size=(*SHAPE, 1)), np.ones((*SHAPE, 1))], -1))
    samples = {"x": jnp.asarray(RNG.normal(size=SHAPE)), "scale": jnp.ones(SHAPE)}
    run.get_samples = lambda group_by_chain: samples

    def model():
        x = numpyro.sample("x", dist.Normal(0, 1))
        scale = numpyro.sample("scale", dist.LogNormal(0, 1))
        numpyro.sample("y", dist.Normal(0 * x, scale), obs=1.0)

    run.sampler = SimpleNamespace(model=model, sample_field="z")
    run.last_state = SimpleNamespace(z={"x": jnp.zeros(4), "scale": jnp.zeros(4)})
    return run


SICK = {
    stuck: ("stuck", "Chains that never moved"),
    two_modes: ("modes", "Chains in different places"),
    one_of_two_modes: ("modes", "Mirror images"),
    divergent: ("divergences", "Divergences"),
    funnel: ("funnel", "Funnel"),
    heavy_tail: ("heavy_tail", "Tails"),
    too_short: ("ess", "Effective sample size"),
    wrong_gradient: ("gradient", "Gradient against differences"),
    nan_region: ("undefined", "Log density around the draws"),
    thinned: ("thinning", "Thinning"),
    constant: ("constant", "Parameters that never changed"),
}


@pytest.mark.parametrize("sick", SICK, ids=lambda make: make.__name__)
def test_a_sick_run_gets_its_row(sick, ended):
    code, row = SICK[sick]
    found = diagnose(sick(ended))
    assert code in {finding.code for finding in found}, str(found)
    assert any(check.name.startswith(row) and check.passed is False for check in found.checks), str(found)
    assert all(finding.message and finding.advice for finding in found)
    # what is no matter of the sickness is not complained of
    allowed = {
        "stuck": {"r_hat", "ess", "virial"},
        "modes": {"r_hat", "ess", "virial"},
        "funnel": {"bfmi", "heavy_tail"},
        "ess": {"r_hat"},
        "gradient": {"virial"},
        "undefined": {"virial"},
    }
    assert {finding.code for finding in found} <= {code} | allowed.get(code, set()), str(found)


@pytest.mark.parametrize("dim", [1, 3, 30])
def test_a_healthy_run_gets_none(dim, ended):
    energy = RNG.normal(size=SHAPE)
    run = ended(normal, RNG.normal(size=(*SHAPE, dim)), energy=energy, accept_prob=RNG.random(SHAPE))
    found = diagnose(run)
    assert found == [], str(found)
    assert found.good
    assert not any(check.passed is False for check in found.checks)
    assert {"R-hat, rank-normalised", "Virial, E[x_i d_j log p] = -delta_ij", "Energy, BFMI"} <= {
        check.name for check in found.checks
    }
    assert str(found).startswith("Good: nothing speaks against these draws.")


def test_many_short_chains_are_judged_by_superchains(ended):
    short = ended(normal, RNG.normal(size=(256, 10, 2)))
    found = diagnose(short)
    assert "Nested R-hat, rank-normalised" in {check.name for check in found.checks}
    assert found == [], str(found)
    apart = RNG.normal(size=(256, 10, 2))
    apart[:40, :, 0] += 3
    assert "r_hat" in {finding.code for finding in diagnose(ended(normal, apart))}


def test_no_round_trips_of_a_tree(tree):
    assert not any(check.name.startswith("Round trips") for check in diagnose(tree).checks)
    climbed = tree.copy()
    climbed.attrs = {**tree.attrs, "round_trips": 3}
    found = diagnose(climbed)
    assert "no_round_trips" in {finding.code for finding in found}
    climbed.attrs["round_trips"] = 100
    assert "no_round_trips" not in {finding.code for finding in diagnose(climbed)}


def test_a_run_whose_target_cannot_be_evaluated_says_so(finished_run):
    run = finished_run({"x": RNG.normal(size=SHAPE)})
    for name in ("Virial", "Mirror images"):
        (row,) = [check for check in diagnose(run).checks if check.name.startswith(name)]
        assert row.passed is None
        assert "not judged: There are no draws" in row.value


def test_an_error_in_a_kernel_is_not_taken_for_a_missing_potential(ended):
    def broken(args, kwargs):
        raise AttributeError("a bug")

    run = ended(normal, RNG.normal(size=(*SHAPE, 2)))
    run.sampler.get_potential_fn = broken
    for function in (diagnose, summary):
        with pytest.raises(AttributeError, match="a bug"):
            function(run)


def test_the_solve_of_a_tree(tree):
    def codes_and_rows(**facts):
        changed = tree.copy()
        changed.attrs = {**tree.attrs, **facts}
        found = diagnose(changed)
        return {finding.code for finding in found}, {check.name: check for check in found.checks}

    codes, rows = codes_and_rows(solve_has_trial=1)
    assert rows["Imaginary-time solve"].value == tree.attrs["solve_outcome"]
    assert rows["Descents outside the trial"].value == str(tree.attrs["solve_outliers"])
    codes, rows = codes_and_rows(solve_bounded=0)
    assert "no_ground_state" in codes
    assert rows["Imaginary-time solve"].passed is False
    codes, rows = codes_and_rows(solve_outliers=2, solve_has_trial=1)
    assert "modes" in codes
    assert rows["Descents outside the trial"].value == "2"
    codes, rows = codes_and_rows(solve_outliers=2, solve_has_trial=0)
    assert "modes" not in codes
    assert "Descents outside the trial" not in rows
    codes, rows = codes_and_rows(step_size_at_floor=1)
    assert "step_size" in codes
    assert rows["Step size"].passed is False
    codes, rows = codes_and_rows(density_edges=1)
    assert "edges" in codes
    assert rows["Edges of the density"].passed is False
    assert "edges" not in codes_and_rows(density_edges=0)[0]


# ------------------------------------------------------------------------------------------------ backends


def problem():
    couplings = np.triu(RNG.normal(size=(8, 8)), 1) / 2
    return IsingProblem.from_dense(RNG.normal(size=8) / 2, couplings)


class Lukewarm(LocalBackend):
    """Draws exactly, at half the inverse temperature, and says nothing of it."""

    def __init__(self, law):
        self.capabilities = Capabilities(law=law, jittable=False)

    def sample(self, problem, *, key, num_reads=1, beta=1.0, schedule=None, initial_states=None):
        reads = ExactEnumeration().sample(problem, key=key, num_reads=num_reads, beta=beta / 2)
        return reads._replace(log_prob=None)


def test_a_backend_of_another_temperature_is_found_out():
    ising, key = problem(), jax.random.key(1)
    states = ExactEnumeration().sample(ising, key=key, num_reads=2000, beta=0.7).states
    found = read_temperature(ising, states)
    assert abs(found.beta - 0.7) < 4 * found.standard_error < 0.2
    (bad,) = diagnose_backend(Lukewarm("reversible"), ising, key=key)
    assert bad.code == "backend_temperature"
    assert bad.grave
    assert "hotter" in bad.message
    (remark,) = diagnose_backend(Lukewarm("unknown"), ising, key=key)
    assert not remark.grave
    good = diagnose_backend(Lukewarm("reversible"), ising, key=key, beta=2e-3)  # as good as none
    assert good == [], str(good)
    cold = read_temperature(ising._replace(J=0 * ising.J), -np.sign(np.asarray(ising.h))[None].repeat(5, 0))
    assert cold.beta == np.inf
    with pytest.raises(ValueError, match="at least 2 reads"):
        read_temperature(ising, states[:1])
    with pytest.raises(ValueError, match="no temperature"):
        read_temperature(ising._replace(J=0 * ising.J, h=0 * ising.h), states)


# ----------------------------------------------------------------------------------------------- the table


def test_the_printed_diagnosis():
    grave, remark = Finding("ess", "Few.", "Draw."), Finding("thinning", "Waste.", "Keep.", grave=False)
    found = Diagnosis([remark, grave], [Check("ESS", "3", "400", False), Check("Fact", "1")])
    assert list(found) == [grave, remark]
    assert not found.good
    assert Diagnosis([remark]).good
    assert Diagnosis([remark]).verdict == "Good: nothing speaks against these draws (1 remark)."
    lines = str(found).splitlines()
    assert lines[0] == "Not enough draws yet: nothing else speaks against them."
    assert lines[1:3] == ["- Few. Draw.", "- Waste. Keep."]
    assert lines[-2].split() == ["BAD", "ESS", "3", "400"]
    assert lines[-1].split() == ["-", "Fact", "1"]
    more = found.extended([grave], [Check("More", "2")])
    assert len(more) == 3
    assert len(more.checks) == 3


# ------------------------------------------------------------------------------- runs of real samplers, slow


def ran(kernel, *args, warmup=300, samples=1000, chains=4, thinning=1, key=0, **options):
    mcmc = MCMC(
        kernel,
        num_warmup=warmup,
        num_samples=samples,
        num_chains=chains,
        thinning=thinning,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(key), *args, **options)
    return mcmc


def neal():
    v = numpyro.sample("v", dist.Normal(0, 3))
    numpyro.sample("x", dist.Normal(0, jnp.exp(v / 2)).expand([9]).to_event(1))


def far_wells(x):
    return -jnp.logaddexp(-0.5 * jnp.sum((x - 6) ** 2), -0.5 * jnp.sum((x + 6) ** 2))


FIELDS = {"extra_fields": ("energy", "diverging", "accept_prob", "potential_energy")}
REAL = {
    "stuck": lambda: ran(
        HMC(potential_fn=normal, step_size=1e3, adapt_step_size=False, adapt_mass_matrix=False),
        warmup=0,
        init_params=jnp.ones((4, 2)),
        **FIELDS,
    ),
    "modes": lambda: ran(NUTS(potential_fn=wells), init_params=8.0 * jnp.array([[1], [1], [-1], [1]])),
    "divergences": lambda: ran(NUTS(neal), **FIELDS),
    "funnel": lambda: ran(NUTS(neal), key=1, **FIELDS),
    "heavy_tail": lambda: ran(NUTS(potential_fn=cauchy), samples=4000, init_params=jnp.ones((4, 1))),
    "ess": lambda: ran(QDE(potential_fn=normal), warmup=30, samples=30, init_params=jnp.ones((4, 2))),
    "gradient": lambda: ran(NUTS(potential_fn=skewed), init_params=jnp.ones((4, 2))),
    "undefined": lambda: ran(NUTS(potential_fn=cut), init_params=jnp.ones((4, 1))),
    "no_round_trips": lambda: ran(
        AnnealedQDE(
            potential_fn=far_wells, reference=3.0, num_particles=16, num_rungs=2, reference_kind="prior"
        ),
        warmup=64,
        samples=64,
        key=2,
        init_params=jnp.ones((4, 8)),
    ),
    "thinning": lambda: ran(QDE(potential_fn=normal), thinning=4, init_params=jnp.ones((4, 2))),
}


@pytest.mark.slow
@pytest.mark.parametrize("code", REAL)
def test_a_real_sick_run_gets_its_row(code):
    found = diagnose(REAL[code]())
    assert code in {finding.code for finding in found}, str(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("eight_schools", QDE),
        ("kidiq_interaction", QDE),
        ("arK", QDE),
        ("mt", QDE),
        ("eight_schools", lambda model: NUTS(model, target_accept_prob=0.99)),
    ],
    ids=["eight_schools", "kidiq", "arK", "mt", "nuts"],
)
def test_a_real_healthy_run_gets_none(name, make):
    case = load_model(f"models/{name}")
    run = MCMC(
        make(case.model),
        num_warmup=1000,
        num_samples=2000,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    run.run(jax.random.key(1), **FIELDS, **case.data)
    found = diagnose(run)
    assert found == [], str(found)
