"""One small run shared by the tests of the room, and a kernel that is quick to compile."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest
from numpyro.handlers import seed, trace
from numpyro.infer import MCMC
from numpyro.infer.mcmc import MCMCKernel
from numpyro.infer.util import initialize_model

from qdesampler.diagnostics import to_datatree
from qdesampler.infer import QDE
from tests.targets import EFFECTS, ERRORS, schools


@pytest.fixture(scope="session")
def eight():
    """The model of the shared run, its data, and the labels that `tree` gives the schools."""
    return SimpleNamespace(model=schools, effects=EFFECTS, errors=ERRORS, labels=list("ABCDEFGH"))


@pytest.fixture(scope="session")
def mcmc():
    run = MCMC(
        QDE(schools),
        num_warmup=200,
        num_samples=250,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    run.run(jax.random.key(0), len(EFFECTS), ERRORS, y=EFFECTS)
    return run


@pytest.fixture(scope="session")
def tree(mcmc):
    return to_datatree(
        mcmc,
        log_likelihood=True,
        prior=100,
        posterior_predictive=True,
        key=jax.random.key(1),
        coords={"school": list("ABCDEFGH")},
        attrs={"seed": 0},
    )


class JitterState(NamedTuple):
    z: Any
    rng_key: jax.Array


class Jitter(MCMCKernel):
    """Not a sampler of anything: a random walk from a valid start, third-party in its lack of extras."""

    sample_field = "z"

    def __init__(self, model):
        self.model = model

    def init(self, rng_key, num_warmup, init_params=None, model_args=(), model_kwargs=None):
        info = initialize_model(
            rng_key, self.model, model_args=model_args, model_kwargs=model_kwargs, dynamic_args=True
        )
        self._postprocess = info.postprocess_fn
        return JitterState(info.param_info.z, rng_key)

    def sample(self, state, model_args, model_kwargs):
        rng_key, step = jax.random.split(state.rng_key)
        z = {name: x + 0.1 * jax.random.normal(step, jnp.shape(x)) for name, x in state.z.items()}
        return JitterState(z, rng_key)

    def postprocess_fn(self, model_args, model_kwargs):
        return self._postprocess(*model_args, **model_kwargs)


@pytest.fixture
def drawn():
    """`drawn(model, *args, **kwargs)`: what `to_datatree` reads of a run, with 2 x 6 equal draws."""

    def run(model, *args, **kwargs):
        sites = trace(seed(model, 0)).get_trace(*args, **kwargs).values()
        free = [s for s in sites if s["type"] != "plate" and not s.get("is_observed")]
        samples = {s["name"]: jnp.broadcast_to(s["value"], (2, 6, *jnp.shape(s["value"]))) for s in free}
        return finished(samples, model, args, kwargs)

    return run


@pytest.fixture
def finished_run():
    """`finished_run(samples)`: a run of a kernel without a model."""
    return lambda samples: finished(samples, None, (), {})


def finished(samples, model, args, kwargs):
    return SimpleNamespace(
        get_samples=lambda group_by_chain: samples,
        get_extra_fields=lambda group_by_chain: {},
        sampler=SimpleNamespace(model=model),
        last_state=None,
        post_warmup_state=None,
        num_warmup=0,
        num_samples=6,
        num_chains=2,
        thinning=1,
        chain_method="vectorized",
        _args=args,
        _kwargs=kwargs,
    )


@pytest.fixture
def jitter():
    """`jitter(model, *args, **kwargs)`: 2 chains and 6 draws of a kernel that is quick to compile."""

    def run(model, *args, thinning=1, jit_model_args=False, **kwargs):
        mcmc = MCMC(
            Jitter(model),
            num_warmup=1,
            num_samples=6,
            num_chains=2,
            thinning=thinning,
            chain_method=jax.vmap,
            progress_bar=False,
            jit_model_args=jit_model_args,
        )
        mcmc.run(jax.random.key(3), *args, **kwargs)
        return mcmc

    return run


@pytest.fixture
def ended():
    """`ended(potential, draws)`: a run that ended with these draws of the latent site `x`."""
    return run_of_draws


def run_of_draws(potential, draws, *, thinning=1, **fields):
    """What `diagnose` asks of a run; draws of shape `(chains, draws, dim)`."""
    x = jnp.asarray(draws)
    kernel = SimpleNamespace(
        model=None,
        sample_field="z",
        get_potential_fn=lambda args, kwargs: lambda z: potential(z["x"]),
    )
    return SimpleNamespace(
        sampler=kernel,
        last_state=SimpleNamespace(z={"x": x[:, -1]}),
        post_warmup_state=None,
        get_samples=lambda group_by_chain: {"x": x},
        get_extra_fields=lambda group_by_chain: fields,
        num_warmup=0,
        num_samples=x.shape[1],
        num_chains=len(x),
        thinning=thinning,
        chain_method="vectorized",
        _args=(),
        _kwargs={},
        _cache={},
    )
