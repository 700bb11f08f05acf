"""Bad input over the whole public face: a clear error of the right class, raised by the package's own checks.

Each row: what is called, how, the class of the error, and what the message has to say. Nothing here compiles
a sampler: what is wrong is refused before.
"""

import traceback
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import NUTS

import qdesampler as q
from qdesampler import MCMC, QDE, AnnealedQDE, AnnealerGibbs, Hamiltonian, SpectralGrid
from qdesampler.backends import (
    BackendError,
    ExactEnumeration,
    IsingProblem,
    ProblemTooLargeError,
    SimulatedAnnealing,
)
from qdesampler.diagnostics import ResultFolder
from qdesampler.driver import CheckpointError, StoreError, Until
from qdesampler.equation import Schedule, boltzmann_occupation
from qdesampler.infer import ModelLoadError

SCHOOLS = Path(__file__).parents[1] / "models" / "eight_schools"
NAN = float("nan")


def model():
    numpyro.sample("a", dist.Normal(0, 1))


def coin():
    k = numpyro.sample("k", dist.Bernoulli(0.3))
    numpyro.sample("y", dist.Normal(k, 1), obs=1.0)


def square(x):
    return x @ x


def driver(kernel=None, **options):
    settings = {"num_warmup": 2, "num_samples": 2, "progress_bar": False} | options
    return MCMC(QDE(model) if kernel is None else kernel, **settings)


def key():
    return jax.random.key(0)


def hill():
    return Hamiltonian.from_objective(square, dim=1, diffusion=0.5)


def grid(**options):
    return q.ground_state(hill(), SpectralGrid(**({"bounds": (-1.0, 1.0), "points": 16} | options)))


def normal(solver, **options):
    return q.ground_state(Hamiltonian.from_log_density(lambda x: -x @ x / 2, dim=2), solver, **options)


def problem(n=2, **options):
    return IsingProblem.from_dense(**({"h": np.zeros(n), "J": np.zeros((n, n))} | options))


def reads(*, n=2, **options):
    return ExactEnumeration().sample(problem(n), **({"key": key()} | options))


# name: (call, class, message)
ROWS = {
    # ---- the driver
    "a model as kernel": (
        lambda: MCMC(model, num_warmup=1, num_samples=1),
        TypeError,
        "runs a kernel made for",
    ),
    "a class as kernel": (lambda: MCMC(QDE, num_warmup=1, num_samples=1), TypeError, "got the class QDE"),
    "half a draw": (lambda: driver(num_samples=2.5), ValueError, "num_samples must be a positive integer"),
    "warm-up as text": (lambda: driver(num_warmup="3"), ValueError, "num_warmup must be a nonnegative"),
    "half a thinning": (lambda: driver(thinning=1.5), ValueError, "thinning must be a positive integer"),
    "no chains": (lambda: driver(num_chains=0), ValueError, "num_chains is 0; expected a positive integer"),
    "threads": (lambda: driver(num_chains=2, chain_method="threads"), ValueError, "Only supporting"),
    "a function as callbacks": (lambda: driver(callbacks=print), TypeError, "expected a list of functions"),
    "a number among callbacks": (
        lambda: driver(callbacks=[3]),
        TypeError,
        "callbacks holds 3; expected func",
    ),
    "until NaN": (lambda: driver(until={"ess": NAN}), ValueError, "ess=nan; expected a number above 0"),
    "until of what is unknown": (lambda: driver(until={"size": 3}), ValueError, "dictionary with some of"),
    "until nothing": (lambda: Until(), ValueError, "`until` is empty"),
    "a checkpoint as number": (lambda: driver(checkpoint=3), TypeError, "checkpoint is 3; expected the path"),
    "a store as number": (lambda: driver(store=3), TypeError, "store is 3; expected the path"),
    "devices by name": (
        lambda: driver(devices="cpu", num_chains=2),
        ValueError,
        "expected a number, 'all', or some",
    ),
    "no devices": (lambda: driver(devices=[], num_chains=2), ValueError, r"devices is \[\]; expected"),
    "devices not there": (lambda: driver(devices=64, num_chains=64), ValueError, "this process sees"),
    "batches that leave a rest": (
        lambda: driver(num_chains=4, chain_batch=3),
        ValueError,
        "expected a divisor of the number of vectorized chains",
    ),
    "a seed as key": (lambda: driver().run(0), TypeError, "must be a JAX random key.*got 0 of type int"),
    "no key": (lambda: driver().run(None), TypeError, "must be a JAX random key.*got None"),
    "keys for other chains": (
        lambda: driver(num_chains=2).run(jax.random.split(key(), 3)),
        ValueError,
        "3 keys for 2 chains",
    ),
    "a start of other sites": (
        lambda: driver().run(key(), init_params={"b": jnp.zeros(())}),
        ValueError,
        r"has sites \['b'\]; the target's are \['a'\]",
    ),
    "a start of another shape": (
        lambda: driver().run(key(), init_params={"a": jnp.zeros(3)}),
        ValueError,
        r"has shape \(3,\); expected \(\)",
    ),
    "a potential without a start": (
        lambda: driver(QDE(potential_fn=square)).run(key()),
        ValueError,
        "`init_params` must be provided",
    ),
    "a field that no state has": (
        lambda: driver(NUTS(model)).run(key(), extra_fields=("speed",)),
        ValueError,
        "speed: not all are fields of NUTS's state, which has i, z",
    ),
    "one name as fields": (
        lambda: driver().run(key(), extra_fields="z"),
        ValueError,
        "expected a list or tup",
    ),
    "draws before a run": (lambda: driver().get_samples(), RuntimeError, "no draws yet: call `run` first"),
    "fields before a run": (lambda: driver().get_extra_fields(), RuntimeError, "no draws yet: call `run`"),
    "a report before a run": (lambda: driver().report, RuntimeError, "no run yet to report on"),
    "nothing to resume": (lambda: driver().resume(SCHOOLS), CheckpointError, "there is nothing to resume"),
    "a store that is something else": (
        lambda: driver(store=SCHOOLS).run(key()),
        StoreError,
        "holds something else already",
    ),
    # ---- kernels
    "no source": (lambda: QDE(), ValueError, "must be specified; got none"),
    "two sources": (lambda: QDE(model, square), ValueError, r"got \['model', 'potential_fn'\]"),
    "a start by no function": (lambda: QDE(model, init_strategy=3), ValueError, "must be callable; got int"),
    "solve as text": (lambda: QDE(model, solve="yes"), ValueError, "solve is 'yes'; expected True or False"),
    "a metric as text": (
        lambda: driver(QDE(model, inverse_mass_matrix="x")).run(key()),
        ValueError,
        "inverse_mass_matrix is 'x'; expected an array",
    ),
    "no step": (lambda: QDE(model, step_size=0.0), ValueError, "step_size is 0.0; expected a positive"),
    "a ladder of one": (lambda: AnnealedQDE(model, num_rungs=1), ValueError, "an integer of at least 2"),
    "half a rung": (lambda: AnnealedQDE(model, num_rungs=2.5), ValueError, "num_rungs is 2.5"),
    "no particles": (lambda: AnnealedQDE(model, num_particles=0), ValueError, "num_particles is 0"),
    "an unknown path": (lambda: AnnealedQDE(model, path="up"), ValueError, "expected one of .*'geometric'"),
    "an unknown kind of reference": (
        lambda: AnnealedQDE(model, reference_kind="left"),
        ValueError,
        "expected one of auto, fitted",
    ),
    "a reference as text": (
        lambda: AnnealedQDE(model, reference="prior"),
        ValueError,
        "reference scale is 'p",
    ),
    "a reference without width": (lambda: AnnealedQDE(model, reference=0.0), ValueError, "expected positive"),
    "more than accepted": (lambda: AnnealedQDE(model, target_accept_prob=2), ValueError, "between 0 and 1"),
    "no discrete model": (lambda: AnnealerGibbs(None), ValueError, "must be a NumPyro model, got NoneType"),
    "an unknown move": (
        lambda: AnnealerGibbs(coin, move="jump"),
        ValueError,
        "no move 'jump'; there are scan",
    ),
    "an unknown surrogate": (
        lambda: AnnealerGibbs(coin, surrogate="x"),
        ValueError,
        "surrogate must be one of",
    ),
    "an empty pool": (lambda: AnnealerGibbs(coin, pool_size=0), ValueError, "pool_size must be a positive"),
    "no local moves": (lambda: AnnealerGibbs(coin, local_share=0.0), ValueError, r"must be in \(0, 1\]"),
    "a backend by name": (
        lambda: AnnealerGibbs(coin, backend="dwave"),
        TypeError,
        "an annealing backend, got",
    ),
    "continuous sites": (
        lambda: driver(AnnealerGibbs(model)).run(key()),
        ValueError,
        r"samples discrete latent sites; \['a'\] are continuous. Make it a block",
    ),
    # ---- what is done with models and runs
    "evidence of QDE": (lambda: q.log_evidence(driver()), ValueError, "needs a run of AnnealedQDE"),
    "evidence of nothing": (lambda: q.log_evidence(None), ValueError, "got NoneType"),
    "nothing to compare": (lambda: q.compare_evidence({}), ValueError, "nothing to compare"),
    "a list to compare": (
        lambda: q.compare_evidence([(1.0, 0.1)]),
        TypeError,
        "runs is a list; expected {name",
    ),
    "an evidence of NaN": (lambda: q.compare_evidence({"a": (NAN, 0.1)}), ValueError, "is not finite"),
    "a negative error": (
        lambda: q.compare_evidence({"a": (1.0, -1.0)}),
        ValueError,
        "error of .*'a'.* at least 0",
    ),
    "one particle": (
        lambda: q.evidence.anneal_particles(model, key=key(), num_particles=1),
        ValueError,
        "at least 16",
    ),
    "particles with a seed": (
        lambda: q.evidence.anneal_particles(model, key=0),
        TypeError,
        "must be a JAX random key",
    ),
    "no searches": (
        lambda: q.find_modes(model, key=key(), num_starts=0),
        ValueError,
        "num_starts must be a pos",
    ),
    "modes by a number": (
        lambda: q.find_modes(model, key=key(), backend=3),
        TypeError,
        "annealing backend, got",
    ),
    "modes with a seed": (lambda: q.find_modes(model, key=7), TypeError, "must be a JAX random key.*got 7"),
    "pools of no warm-up": (lambda: q.renew_pools(driver(), key()), ValueError, "no warm-up to renew pools"),
    "a guide of no model": (lambda: q.AutoGroundState(3), TypeError, "model must be a NumPyro model, got 3"),
    "a distribution of no state": (
        lambda: q.GroundStateDistribution(3),
        TypeError,
        "must be a GroundState, got",
    ),
    "a Hamiltonian with a seed": (
        lambda: q.model_hamiltonian(3, model),
        TypeError,
        "must be a JAX random key",
    ),
    "no model at a path": (lambda: q.load_model("nowhere"), ModelLoadError, "there is no model at nowhere"),
    "data that are missing": (lambda: q.load_model(SCHOOLS, {}), ModelLoadError, "needs sigma, y, missing"),
    "data of NaN": (
        lambda: q.load_model(SCHOOLS, {"y": [NAN] * 8, "sigma": [1.0] * 8}),
        ModelLoadError,
        r"8 value\(s\) that are NaN or infinite",
    ),
    "no file of data": (lambda: q.load_model(SCHOOLS, "no.json"), ModelLoadError, "no.json cannot be read"),
    # ---- Hamiltonians and their solvers
    "no objective": (
        lambda: Hamiltonian.from_objective(3, dim=1),
        TypeError,
        "a function of one point, got 3",
    ),
    "no dimension": (
        lambda: Hamiltonian.from_log_density(square, dim=0),
        ValueError,
        "dim must be a positive",
    ),
    "half a dimension": (
        lambda: Hamiltonian.from_log_density(square, dim=1.5),
        TypeError,
        "got 1.5 of type float",
    ),
    "negative diffusion": (
        lambda: Hamiltonian.from_objective(square, dim=1, diffusion=-1.0),
        ValueError,
        "diffusion must be positive and finite, got -1",
    ),
    "a vector as objective": (
        lambda: Hamiltonian.from_objective(lambda x: x, dim=2, diffusion=0.5),
        ValueError,
        r"must return a scalar .*got shape \(2,\)",
    ),
    "an integer as density": (
        lambda: Hamiltonian.from_log_density(lambda x: 1, dim=2),
        TypeError,
        "got dtype int32",
    ),
    "many points at once": (lambda: hill().potential(jnp.zeros((4, 1))), ValueError, "batch with jax.vmap"),
    "no Hamiltonian": (
        lambda: q.ground_state(square, SpectralGrid((-1, 1), 16)),
        TypeError,
        "must be a Hamilt",
    ),
    "a solver by name": (
        lambda: normal("grid"),
        TypeError,
        "must be an object with a method solve.* got 'grid'",
    ),
    "a solver's class": (lambda: normal(SpectralGrid), TypeError, "must be an object with a method solve"),
    "a solver without key": (lambda: normal(q.GaussianTrial()), ValueError, "give a key, such as"),
    "a solver with a seed": (lambda: normal(q.GaussianTrial(), key=3), TypeError, "must be a JAX random key"),
    "bounds turned round": (lambda: grid(bounds=(1.0, -1.0)), ValueError, "finite with lower < upper"),
    "too few points": (lambda: grid(points=2), ValueError, "points must be at least 8, got 2"),
    "axes too many": (lambda: grid(bounds=((-1, 1), (-1, 1))), ValueError, "2 axes, but the Hamiltonian has"),
    "a soft boundary": (lambda: grid(boundary="soft"), ValueError, "must be 'open' or 'hard', got 'soft'"),
    "a full Gaussian": (lambda: q.GaussianTrial(kind="full"), ValueError, "kind must be 'dense', 'diagonal'"),
    "no layers": (lambda: q.FlowTrial(layers=0), ValueError, "layers must be a positive integer, got 0"),
    "steps back": (
        lambda: q.Walkers(trial=lambda x: -x @ x, time_step=-0.1),
        ValueError,
        "time_step must be positive and fin",
    ),
    "a trial as number": (
        lambda: q.Walkers(trial=3, time_step=0.1),
        TypeError,
        "a function log_psi_T.* got 3",
    ),
    "no schedule": (lambda: q.anneal(hill(), 3, key=key()), TypeError, "a Hamiltonian and a Schedule, got"),
    "a schedule of NaN": (lambda: Schedule.linear(1.0, NAN), ValueError, "values must be finite"),
    "no state to evolve": (
        lambda: q.evolve(hill(), 3, time_step=0.1, num_steps=3),
        TypeError,
        "psi must be a GroundState",
    ),
    "cold below zero": (
        lambda: boltzmann_occupation(jnp.ones(2), -1.0),
        ValueError,
        "beta must be non-negative",
    ),
    # ---- annealers
    "fields too few": (lambda: problem(2, h=np.zeros(1)), ValueError, r"got \(1,\) and \(2, 2\)"),
    "no problem": (
        lambda: ExactEnumeration().sample([1], key=key()),
        TypeError,
        "expected an IsingProblem, got list",
    ),
    "no reads": (lambda: reads(num_reads=0), ValueError, "num_reads must be a positive integer, got 0"),
    "reads with a seed": (lambda: reads(key=3), TypeError, "key must be a JAX random key.*got 3"),
    "reads below zero": (lambda: reads(beta=-1.0), ValueError, "beta must be non-negative and finite"),
    "a problem too large": (
        lambda: reads(n=64),
        ProblemTooLargeError,
        "16 variables at most, the problem has 64",
    ),
    "no sweeps": (
        lambda: SimulatedAnnealing(num_sweeps=0),
        ValueError,
        "num_sweeps must be a positive integer",
    ),
    # ---- results
    "a tree of nothing": (lambda: q.to_datatree(None), TypeError, "expected an MCMC after its run, got None"),
    "a tree before a run": (lambda: q.to_datatree(driver()), RuntimeError, "no draws yet: call `run` first"),
    "a summary of a number": (lambda: q.summary(3), TypeError, "expected an MCMC after its run, got 3"),
    "a diagnosis of a number": (lambda: q.diagnose(3), TypeError, "expected an MCMC after its run, got 3"),
    "a diagnosis before a run": (lambda: q.diagnose(driver()), RuntimeError, "no draws yet"),
    "a report of nothing": (lambda: q.report(None, "x.html"), TypeError, "expected an MCMC after its run"),
    "zero variance of nothing": (lambda: q.zero_variance(None), TypeError, "expected an MCMC after its run"),
    "a ladder of QDE": (lambda: q.ladder_summary(driver()), ValueError, "needs a run of AnnealedQDE"),
    "results where something is": (
        lambda: ResultFolder(SCHOOLS, overwrite=False, stale=()),
        FileExistsError,
        "eight_schools",
    ),
    "a name that is none": (
        lambda: q.MCMCMC,
        AttributeError,
        "has no attribute 'MCMCMC'; it has AnnealedQDE",
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_bad_input_is_told_in_words(row):
    call, error, message = ROWS[row]
    with pytest.raises(error, match=message) as caught:
        call()
    assert type(caught.value) is error
    # raised by a check of the package or of NumPyro's driver, not from inside JAX
    where = traceback.extract_tb(caught.value.__traceback__)[-1].filename
    assert "/jax/" not in where


def test_there_are_enough_rows():
    assert len(ROWS) >= 100
    assert {error for _, error, _ in ROWS.values()} >= {TypeError, ValueError, RuntimeError, ModelLoadError}
    assert not issubclass(BackendError, ValueError)  # what a machine does is no bad input
