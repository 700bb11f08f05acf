"""One run's record: what is measured, and what becomes of runs that break."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.bench.harness.record import Settings
from qdesampler.bench.harness.timing import compile_time, union_length
from qdesampler.bench.measurement import Quality, measure, quality, run_status
from qdesampler.bench.peers.numpyro import numpyro_runner
from qdesampler.bench.targets.closed_form import standard_gaussian
from qdesampler.infer import QDE
from qdesampler.infer.counted_nuts import CountedNUTS

SETTINGS = Settings(chains=2, warmup=150, draws=200)


@pytest.mark.parametrize("kernel", ["qde", pytest.param("nuts", marks=pytest.mark.slow)])
def test_a_good_run(kernel):
    case = standard_gaussian(3)
    record = measure(case, kernel, 1, SETTINGS)
    assert record.status == "ok"
    assert (record.model, record.kernel, record.seed, record.dim) == ("gaussian-3", kernel, 1, 3)
    # NUTS evaluates in every iteration of every chain, and at the start; a solved warm-up rests
    assert record.warmup_evals >= (2 * 150 + 2 if kernel == "nuts" else 50)
    assert record.sampling_evals >= 2 * 200
    smallest = min(record.ess, record.ess_sq)
    assert 40 < smallest < 2000
    assert record.per_1000_sampling == 1000 * smallest / record.sampling_evals
    assert record.per_1000_total == 1000 * smallest / (record.sampling_evals + record.warmup_evals)
    assert record.evals_to_400 == record.warmup_evals + record.sampling_evals * 400 / smallest
    assert record.reached_400 == (smallest >= 400)
    assert 0 < record.b2_mean <= record.b2_max
    assert record.sd_error < 0.5
    assert record.error_se < 5
    assert record.error_sd < 0.5
    assert record.rhat < 1.05
    assert record.compile_s > record.run_s > 0


class BrokenAtTheStart(CountedNUTS):
    def init(self, *arguments, **keywords):
        raise ArithmeticError("the start is lost\nand the rest is long")


class Silent(CountedNUTS):
    """Never moves."""

    def sample(self, state, model_args, model_kwargs):
        return state._replace(iteration=state.iteration + 1, num_evals=jnp.ones_like(state.num_evals))


class NotFinite(Silent):
    def sample(self, state, model_args, model_kwargs):
        state = super().sample(state, model_args, model_kwargs)
        return state._replace(z=jax.tree.map(lambda x: x * jnp.nan, state.z))


@pytest.mark.parametrize(
    ("kernel", "status"),
    [
        (BrokenAtTheStart, "failed: ArithmeticError: the start is lost"),
        (Silent, "failed: a scalar never moved"),
        (NotFinite, "failed: draws that are NaN or infinite"),
    ],
)
def test_a_broken_run_is_a_row(kernel, status):
    runners = {"broken": numpyro_runner(kernel)}
    record = measure(standard_gaussian(2), "broken", 0, Settings(2, 5, 8), runners)
    assert record.status == status
    assert record.failed
    assert record.error_se is None
    if kernel is Silent:
        assert record.ess == record.ess_sq == record.per_1000_total == 0.0
        assert record.rhat == math.inf


def test_a_run_that_has_not_mixed_says_so():
    def model():
        raise AssertionError("never traced: the potential is given")

    case = replace(standard_gaussian(1), model=model, reference=None)

    def two_wells(z):
        return 50.0 * (z["x"] ** 2 - 1.0).sum() ** 2

    def kernel(_):
        return StartsApart(potential_fn=two_wells, solve=False)  # a trial would join the wells

    record = measure(case, "apart", 0, Settings(4, 60, 60), {"apart": numpyro_runner(kernel)})
    assert record.status.startswith("failed: R-hat ")
    assert record.rhat > 1.5
    assert record.ess > 0  # it fails, and keeps its figures


class StartsApart(QDE):
    """Half of the chains in each well."""

    def init(self, rng_key, num_warmup, init_params=None, model_args=(), model_kwargs=None):
        start = {"x": jnp.array([[-1.0], [1.0], [-1.0], [1.0]])}
        return super().init(rng_key, num_warmup, start, model_args, model_kwargs)


def test_quality_of_independent_and_of_correlated_draws():
    rng = np.random.default_rng(0)
    white = rng.standard_normal((4, 1000, 3))
    found = quality({"a": white[..., :1], "b": white[..., 1:]})
    assert 3000 < found.ess < 5000
    assert 3000 < found.ess_sq < 5000
    assert found.rhat < 1.01
    # an autoregression of correlation r has (1 - r) / (1 + r) effective draws a draw
    walk = np.empty((4, 4000))
    walk[:, 0] = rng.standard_normal(4)
    for t in range(1, 4000):
        walk[:, t] = 0.8 * walk[:, t - 1] + 0.6 * rng.standard_normal(4)
    assert quality({"a": white, "b": walk[:, :1000]}).ess < quality({"b": walk}).ess
    assert 0.75 < quality({"b": walk}).ess / (16000 / 9) < 1.3


@pytest.mark.parametrize(
    ("found", "pareto_k", "status"),
    [
        (Quality(50.0, 60.0, 1.05), None, "ok"),
        (Quality(60.0, 49.0, 1.0), None, "failed: ESS 49 below 50"),
        (Quality(60.0, 60.0, 1.06), None, "failed: R-hat 1.06 above 1.05"),
        (Quality(60.0, math.nan, 1.0), None, "failed: ESS nan below 50"),
        (Quality(60.0, 60.0, math.nan), None, "failed: R-hat nan above 1.05"),
        (Quality(60.0, 60.0, None), 0.7, "ok"),
        (Quality(60.0, 60.0, None), 0.71, "failed: Pareto k 0.71 above 0.7"),
    ],
)
def test_what_counts_as_a_failure(found, pareto_k, status):
    assert run_status(found, pareto_k) == status


def test_weighted_draws_have_the_effective_size_of_their_weights():
    log_weights = np.log(np.array([[0.5, 0.25], [0.125, 0.125]]))
    found = quality({"a": np.zeros((2, 2))}, log_weights)
    assert found == Quality(1 / (0.25 + 0.0625 + 2 * 0.015625), 1 / 0.34375, None)


def test_one_stuck_scalar_spoils_all():
    draws = np.random.default_rng(0).standard_normal((4, 100, 2))
    draws[..., 1] = 3.0
    found = quality({"a": draws})
    assert (found.ess, found.ess_sq, found.rhat, found.stuck) == (0.0, 0.0, math.inf, True)


def test_a_sign_flip_moves_x_but_not_its_square():
    draws = np.sign(np.random.default_rng(0).standard_normal((4, 100)))
    found = quality({"a": draws})
    assert found.ess > 100
    assert found.ess_sq == 0.0
    assert not found.stuck


def test_compile_time_is_counted_once_and_only_inside():
    def slow_to_compile(x):
        for _ in range(60):
            x = jnp.sin(x) @ x
        return x

    with compile_time() as first:
        jax.jit(slow_to_compile)(jnp.ones((3, 3)))
    counted = first.seconds
    assert counted > 0
    jax.jit(lambda x: slow_to_compile(x) + 1)(jnp.ones((3, 3)))
    assert first.seconds == counted


def test_union_length():
    assert union_length([]) == 0.0
    assert union_length([(5.0, 6.0), (0.0, 2.0), (1.0, 1.5), (1.5, 3.0)]) == 4.0
