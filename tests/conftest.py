"""Fixtures and hooks of all rooms: tiers, the compilation cache, float64, scripts, a mock of an annealer."""

import gc
import runpy
import socket
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imread
from numpyro.infer import MCMC

from qdesampler.infer import AnnealedQDE
from tests.support import compilation_cache
from tests.support.budget import Budget
from tests.targets import double_well

TESTS = Path(__file__).parent
QUICK = "jax_disable_most_optimizations"
LINES = "jax_traceback_in_locations_limit"
TIERS = ("law", "contract", "story", "slow")
ROOMS = {  # folder or file below tests/: tier
    **dict.fromkeys(("equation", "numerics", "solvers", "kernels", "backends", "models"), "law"),
    **dict.fromkeys(("infer", "driver", "diagnostics", "bench"), "contract"),
    **dict.fromkeys(("stories", "test_cli.py", "test_cli_commands.py"), "story"),
}


def pytest_configure(config):
    config.pluginmanager.register(Budget(), "budget")
    if not hasattr(config, "workerinput"):
        compilation_cache.prune()


def pytest_collection_modifyitems(items):
    """Give each test its tier: its own marker, or else that of its room."""
    for item in items:
        if not any(item.get_closest_marker(tier) for tier in TIERS):
            room = item.path.relative_to(TESTS).parts[0]
            item.add_marker(ROOMS.get(room, "contract"))


@contextmanager
def setting(name, value):
    """Set a flag of JAX, and restore it."""
    before = jax.config.values[name]
    jax.config.update(name, value)
    yield
    jax.config.update(name, before)


@pytest.fixture(scope="session", autouse=True)
def _keep_compiled_programs():
    with compilation_cache.used():
        yield


@pytest.fixture(scope="module", autouse=True)
def _drop_compiled_programs():
    yield
    compilation_cache.drop_programs_if_large()


@pytest.fixture(scope="session", autouse=True)
def _compile_quickly():
    """Programs of the tests run briefly: most of their time would go into XLA's optimisations.

    Programs without line numbers, and fewer collections of garbage than JAX's traces would cause, take about
    8% off a test.
    """
    before = gc.get_threshold()
    gc.set_threshold(100_000, 50, 100)
    with pytest.MonkeyPatch.context() as patch, setting(QUICK, True), setting(LINES, 0):
        patch.setenv(QUICK.upper(), "1")  # for child processes
        patch.setenv(LINES.upper(), "0")
        yield
    gc.set_threshold(*before)


@pytest.fixture
def optimised(monkeypatch):
    """Run one test with XLA's optimisations: it is long enough to be worth them."""
    monkeypatch.setenv(QUICK.upper(), "0")
    with setting(QUICK, False):
        yield


@pytest.fixture(autouse=True)
def _optimise_long_runs(request):
    room = request.path.relative_to(TESTS).parts[0]
    if "slow" in request.keywords and room not in ("infer", "kernels"):
        request.getfixturevalue("optimised")


@pytest.fixture
def x64():
    """Run one test in float64 and restore the setting."""
    with setting("jax_enable_x64", True):
        yield


def assert_drawn(picture):
    """Something is drawn in every ninth of a picture: pixels that differ from its background.

    Curves and letters are drawn with soft edges, hence several colours; an empty frame has one or two.
    """
    seen = imread(picture)[..., :3]
    assert min(seen.shape[:2]) > 300
    for rows in np.array_split(seen, 3):
        for part in np.array_split(rows, 3, axis=1):
            assert len(np.unique(part.reshape(-1, 3), axis=0)) > 8, picture


@pytest.fixture
def run_script(tmp_path, monkeypatch, capsys):
    """Run a script as `python NAME ARGUMENTS` would, in this process; return what it printed."""

    def script(path, *arguments: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [path.name, *arguments])
        with warnings.catch_warnings():
            warnings.filterwarnings("error", category=DeprecationWarning, module="__main__")
            runpy.run_path(str(path), run_name="__main__")
        for picture in (tmp_path / "figures").glob("*.png"):
            assert_drawn(picture)
        return capsys.readouterr().out

    return script


@pytest.fixture
def no_network(monkeypatch):
    """Every attempt to reach for the network fails the test."""

    def refuse(*args, **kwargs):
        raise AssertionError("a test reached for the network")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="session")
def annealed_wells():
    """Four chains of AnnealedQDE on the double well, for all tests of what such a run holds."""
    kernel = AnnealedQDE(potential_fn=double_well, reference=3.0, num_particles=128, max_rungs=6)
    mcmc = MCMC(
        kernel, num_warmup=200, num_samples=2000, num_chains=4, chain_method="vectorized", progress_bar=False
    )
    mcmc.run(jax.random.key(0), init_params={"x": jnp.ones((4, 2))})
    return mcmc


@pytest.fixture(scope="session")
def machine():
    """Ocean's mock of a machine of topology Zephyr 2; anneals by Metropolis sweeps that end at beta = 1."""
    from dwave.samplers import SimulatedAnnealingSampler
    from dwave.system.testing import MockDWaveSampler

    return MockDWaveSampler(
        topology_type="zephyr",
        topology_shape=[2, 4],
        exact_solver_cutoff=0,
        substitute_sampler=SimulatedAnnealingSampler(),
        substitute_kwargs={"beta_range": [0.1, 1.0], "num_sweeps": 100, "seed": 7},
    )


@pytest.fixture(scope="session")
def embedding(machine):
    """Chains, of two qubits or more, for a clique of four variables with names."""
    import minorminer

    labels = ["zeta", "b", "alpha", "d"]
    pairs = [(u, v) for u in labels for v in labels if u < v]
    chains = minorminer.find_embedding(pairs, machine.edgelist, random_seed=1)
    free = set(machine.nodelist).difference(*chains.values())
    for label in labels:
        more = min(free & {v for u in chains[label] for v in machine.adjacency[u]})
        free.remove(more)
        chains[label].append(more)
    return chains
