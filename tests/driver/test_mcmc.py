"""The driver: NumPyro's draws, nothing compiled twice, early ends, groups of chains, messages."""

import copy
import gc
import io
import os
import pickle
import re
import signal
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax._src import monitoring
from jax.extend.core import Jaxpr
from numpyro.infer import HMC, NUTS, BarkerMH, DiscreteHMCGibbs, Predictive
from numpyro.infer import MCMC as NumPyroMCMC
from tqdm import tqdm

from qdesampler import MCMC, QDE
from qdesampler.diagnostics import to_datatree
from qdesampler.driver import program_cache
from qdesampler.driver.progress import shown_warmup
from qdesampler.driver.stopping import Until, check_convergence
from tests.support.kernels import GaussianWalk

Y = jnp.array([0.3, 1.2, -0.4, 0.8])


def model(y, scale=1.0):
    mean = numpyro.sample("mean", dist.Normal(0, 3))
    width = numpyro.sample("width", dist.HalfNormal(2))
    numpyro.deterministic("twice", 2 * mean)
    numpyro.sample("y", dist.Normal(mean, scale * width), obs=y)


def hmc():
    return HMC(model, step_size=0.3, trajectory_length=1.6, adapt_step_size=False, adapt_mass_matrix=False)


def walk():
    return GaussianWalk(model)


def run(kernel, *args, key=0, **options):
    settings = {"num_warmup": 20, "num_samples": 30, "num_chains": 2, "progress_bar": False} | options
    mcmc = MCMC(kernel, **settings)
    mcmc.run(jax.random.key(key), *(args or (Y,)))
    return mcmc


@pytest.fixture(scope="module")
def compiled():
    """Counts what XLA compiles."""
    events = []
    monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: events.append(event) if "backend_compile" in event else None
    )
    return events


@pytest.mark.parametrize(("chains", "method"), [(1, "vectorized"), (2, "vectorized"), (2, "sequential")])
def test_draws_are_those_of_numpyro(chains, method):
    settings = {"num_warmup": 5, "num_samples": 20, "num_chains": chains, "chain_method": method}
    runs = [maker(hmc(), progress_bar=False, **settings) for maker in (MCMC, NumPyroMCMC)]
    for mcmc in runs:
        mcmc.run(jax.random.key(3), Y, extra_fields=("accept_prob",))
    ours, theirs = (mcmc.get_samples(group_by_chain=True) for mcmc in runs)
    assert {name: leaf.shape for name, leaf in ours.items()} == {name: v.shape for name, v in theirs.items()}
    assert np.unique(ours["mean"]).size > 15 * chains
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(
        runs[0].get_extra_fields()["accept_prob"], runs[1].get_extra_fields()["accept_prob"], rtol=1e-3
    )


def test_thinning_keeps_the_draws_that_numpyro_keeps():
    settings = {"num_warmup": 5, "num_samples": 20, "thinning": 3, "progress_bar": False}
    runs = [maker(hmc(), **settings) for maker in (MCMC, NumPyroMCMC)]
    for mcmc in runs:
        mcmc.run(jax.random.key(3), Y)
    ours, theirs = (mcmc.get_samples()["mean"] for mcmc in runs)
    assert ours.shape == (6,)
    np.testing.assert_allclose(ours, theirs, rtol=2e-4)


def test_a_second_run_compiles_nothing_and_draws_the_same(compiled):
    mcmc = run(walk())
    first = mcmc.get_samples()["mean"]
    before = len(compiled)
    assert before > 0
    mcmc.run(jax.random.key(0), Y)
    assert len(compiled) == before
    assert np.array_equal(first, mcmc.get_samples()["mean"])
    mcmc.run(jax.random.key(1), Y)
    assert len(compiled) == before
    assert not np.array_equal(first, mcmc.get_samples()["mean"])


def test_new_data_of_the_same_shape(compiled):
    moved = Y + 4
    mcmc = run(walk(), jit_model_args=True, num_samples=200, key=2)
    before, near = len(compiled), mcmc.get_samples()["mean"].mean()
    mcmc.run(jax.random.key(2), moved)
    assert len(compiled) == before
    assert mcmc.get_samples()["mean"].mean() > near + 2


def test_data_changed_in_place_are_new_data():
    data = np.array(Y)
    mcmc = run(walk(), data, num_samples=200)
    near = mcmc.get_samples()["mean"].mean()
    data += 4
    mcmc.run(jax.random.key(0), data)
    assert mcmc.get_samples()["mean"].mean() > near + 2


def test_the_warm_up_says_how_far_it_is_and_is_silent_afterwards():
    lines, said = [], []

    class Line(tqdm):
        def set_description_str(self, desc=None, refresh=True):
            lines.append(desc)

    kernel = QDE(model)
    with shown_warmup(kernel, shown=True, make=partial(Line, file=io.StringIO())):
        kernel.init(jax.random.key(0), 100, None, (Y,), {})
    assert lines[0] == "warm-up: descents"
    assert any(
        re.match(r"warm-up: solve: step 1, acceptance 0\.\d\d, \d+ evaluations", line) for line in lines
    )
    with shown_warmup(walk(), shown=True, make=said.append):  # a kernel that has nothing to say
        pass
    with shown_warmup(kernel, shown=False, make=said.append):
        copy.copy(kernel).init(jax.random.key(0), 100, None, (Y,), {})
    assert not said


@pytest.mark.parametrize("kernel", [walk, lambda: QDE(model, solve=False)])
def test_a_pickled_run_goes_on_as_the_run_itself(kernel):
    mcmc = run(kernel())
    copied = pickle.loads(pickle.dumps(mcmc))
    for each in (mcmc, copied):
        each.post_warmup_state = each.last_state
        each.run(each.post_warmup_state.rng_key, Y)
    for name, draws in mcmc.get_samples().items():
        np.testing.assert_array_equal(copied.get_samples()[name], draws)


@pytest.mark.parametrize(
    "kernel", [pytest.param(hmc, marks=pytest.mark.slow), lambda: QDE(model, solve=False)]
)
def test_programs_that_gave_way_leave_no_trace(monkeypatch, kernel):
    """Of a program that is no longer kept, neither JAX nor the driver holds the code."""
    monkeypatch.setattr(program_cache, "_MOST_PROGRAMS", 1)
    mcmc, held = MCMC(kernel(), num_warmup=5, num_samples=5, num_chains=2, progress_bar=False), []
    for new in range(3):
        mcmc.run(jax.random.key(0), Y + new)
        gc.collect()
        held.append(sum(type(thing) is Jaxpr and bool(thing.eqns) for thing in gc.get_objects()))
    assert held[2] <= held[1] + 5  # the reducers of an argmax; a program is hundreds


def test_until_ends_at_the_first_look_that_holds():
    mcmc = run(walk(), num_samples=5000, until={"ess": 40, "rhat": 1.2})
    report = mcmc.report
    assert report.ended_by == "until"
    assert report.check.ess >= 40
    assert report.check.rhat <= 1.2
    assert report.draws == mcmc.num_samples == mcmc.get_samples(group_by_chain=True)["mean"].shape[1] < 5000
    looks = [100]
    while looks[-1] < report.draws:
        looks.append(-(-looks[-1] * 5 // 4))
    assert report.draws == looks[-1]
    samples = mcmc.get_samples(group_by_chain=True)
    assert not any(Until(ess=40, rhat=1.2).is_met(check_convergence(samples, look)) for look in looks[:-1])
    with pytest.warns(RuntimeWarning, match="before Until"):
        short = run(walk(), num_samples=50, until={"ess": 1e5})
    assert short.report.ended_by == "num_samples"


def test_evaluations_are_counted_and_can_end_a_run():
    full = run(walk())
    assert full.report.evaluations == 2 * (20 + 30) * 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        part = run(walk(), num_samples=100000, until={"max_evals": 3000})
    assert part.report.ended_by == "max_evals"
    assert 3000 <= part.report.evaluations < 100000


def test_callbacks_see_the_run_and_can_end_it():
    seen = []

    def look(progress):
        seen.append(progress)
        return progress.draws >= 40

    mcmc = run(walk(), num_samples=100000, callbacks=[look])
    assert mcmc.report.ended_by == "callback"
    assert [p.iteration for p in seen] == sorted({p.iteration for p in seen})
    assert [p.phase for p in seen].index("sample") > 0
    assert seen[-1].draws == mcmc.get_samples(group_by_chain=True)["mean"].shape[1]
    assert 0 < seen[-1].accept_prob <= 1
    assert seen[-1].evaluations == 2 * 3 * seen[-1].iteration


def test_a_run_after_one_that_ended_early_is_whole():
    ends = iter([True])
    mcmc = run(walk(), num_samples=300, callbacks=[lambda p: p.draws >= 20 and next(ends, False)])
    assert 20 <= mcmc.report.draws < 300
    mcmc.run(jax.random.key(1), Y)
    assert mcmc.report.ended_by == "num_samples"
    assert mcmc.get_samples(group_by_chain=True)["mean"].shape == (2, 300)


def test_an_interrupt_keeps_what_is_drawn():
    def interrupt(progress):
        if progress.draws >= 40:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.warns(RuntimeWarning, match="Interrupted: .* are kept"):
        mcmc = run(walk(), num_samples=100000, callbacks=[interrupt])
    whole = run(walk(), num_samples=400)
    kept = mcmc.get_samples(group_by_chain=True)["mean"]
    shared = min(kept.shape[1], 400)
    assert shared >= 40
    assert np.array_equal(kept[:, :shared], whole.get_samples(group_by_chain=True)["mean"][:, :shared])


def test_batches_are_runs_of_their_own_keys():
    batched = run(walk(), num_chains=4, chain_batch=2).get_samples(group_by_chain=True)["mean"]
    whole = run(walk(), num_chains=4).get_samples(group_by_chain=True)["mean"]
    np.testing.assert_allclose(batched, whole, rtol=2e-4, atol=2e-4)


def test_a_transform_as_chain_method():
    mapped = run(walk(), chain_method=jax.vmap).get_samples(group_by_chain=True)
    whole = run(walk()).get_samples(group_by_chain=True)
    np.testing.assert_allclose(mapped["twice"], whole["twice"], rtol=2e-4, atol=2e-4)


def test_warmup_then_run_then_more():
    mcmc = MCMC(walk(), num_warmup=20, num_samples=30, num_chains=2, progress_bar=False)
    mcmc.warmup(jax.random.key(0), Y)
    assert mcmc.get_samples()["mean"].shape == (0,)
    mcmc.run(jax.random.key(1), Y)
    first = mcmc.get_samples()["mean"]
    mcmc.post_warmup_state = mcmc.last_state
    mcmc.run(jax.random.key(2), Y)
    assert first.shape == mcmc.get_samples()["mean"].shape == (60,)
    assert not np.array_equal(first, mcmc.get_samples()["mean"])
    assert int(mcmc.last_state.i[0]) == 80


def test_arviz_and_predictive_take_it():
    mcmc = run(QDE(model), num_warmup=60)
    tree = to_datatree(mcmc)
    assert tree["posterior"]["mean"].shape == (2, 30)
    replicated = Predictive(model, mcmc.get_samples())(jax.random.key(0), None)["y"]
    assert replicated.shape == (60,)
    assert mcmc.report.evaluations >= int(np.sum(mcmc.get_extra_fields()["num_evals"])) > 0


def test_kernels_that_do_not_count_and_start_badly():
    mcmc = run(BarkerMH(model), num_chains=1, num_warmup=300)
    assert mcmc.report.evaluations == 0
    assert np.unique(mcmc.get_samples()["mean"]).size > 5

    def impossible(y):
        numpyro.sample("x", dist.Normal())
        numpyro.factor("never", -jnp.inf)

    with pytest.raises(RuntimeError, match="[Cc]annot find valid initial"):
        run(NUTS(impossible))


def test_kernels_that_hold_kernels():
    def mixed(y):
        which = numpyro.sample("which", dist.Bernoulli(0.3))
        numpyro.sample("mean", dist.Normal(3.0 * which, 1))

    kernel = DiscreteHMCGibbs(NUTS(mixed))
    settings = {"num_warmup": 5, "num_samples": 20, "chain_method": "sequential", "num_chains": 2}
    runs = [maker(kernel, progress_bar=False, **settings) for maker in (MCMC, NumPyroMCMC)]
    for mcmc in runs:
        mcmc.run(jax.random.key(0), Y)
    ours, theirs = (mcmc.get_samples() for mcmc in runs)
    np.testing.assert_array_equal(ours["which"], theirs["which"])
    np.testing.assert_allclose(ours["mean"], theirs["mean"], rtol=1e-3, atol=1e-3)


def test_draws_that_are_not_finite_are_told():
    def broken(y):
        x = numpyro.sample("x", dist.Normal())
        numpyro.deterministic("root", jnp.sqrt(x))

    with pytest.warns(RuntimeWarning, match="^Some draws of root are NaN or infinite"):
        run(GaussianWalk(broken))


BAD = [
    ({"num_chains": 0}, "num_chains is 0"),
    ({"every": 0}, "every is 0"),
    ({"every": 2.5}, "every is 2.5"),
    ({"num_warmup": -1}, "num_warmup"),
    ({"num_samples": 0}, "num_samples"),
    ({"thinning": 0}, "thinning"),
    ({"chain_method": "pmap"}, "Only supporting"),
    ({"chain_batch": 3, "num_chains": 4}, "chain_batch=3 with num_chains=4"),
    ({"chain_batch": 2, "num_chains": 4, "chain_method": "sequential"}, "expected a divisor"),
    ({"devices": 99}, "this process sees"),
    ({"devices": 1, "num_chains": 2, "chain_method": "sequential"}, "expected vectorized chains"),
    ({"until": {}}, "`until` is empty"),
    ({"until": {"draws": 3}}, "expected a dictionary with some of"),
    ({"until": {"ess": -1}}, "ess=-1; expected a number above 0"),
    ({"until": {"rhat": 0.9}}, "rhat=0.9; expected a number above 1"),
    ({"until": 400}, "`until` is 400"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        MCMC(walk(), **({"num_warmup": 5, "num_samples": 5, "progress_bar": False} | options))


def test_bad_calls():
    mcmc = MCMC(walk(), num_warmup=5, num_samples=5, num_chains=2, progress_bar=False)
    with pytest.raises(RuntimeError, match="no draws yet"):
        mcmc.get_samples()
    with pytest.raises(ValueError, match="3 keys for 2 chains"):
        mcmc.run(jax.random.split(jax.random.key(0), 3), Y)
    with pytest.raises(ValueError, match="leading axis of num_chains = 2"):
        mcmc.run(jax.random.key(0), Y, init_params={"mean": jnp.zeros(3), "width": jnp.zeros(3)})
    with pytest.raises(ValueError, match="expected a list or tuple of names"):
        mcmc.run(jax.random.key(0), Y, extra_fields="energy")
