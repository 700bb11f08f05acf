"""Shared fixtures: float64 on request, compiled programs dropped, scripts run, a mock of an annealer."""

import runpy
import socket
import sys

import jax
import pytest
from matplotlib.image import imread


@pytest.fixture
def x64():
    """Run one test in float64 and restore the setting."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture(scope="module", autouse=True)
def _drop_compiled_programs():
    """Keep the suite's memory flat: compiled programs are not shared between modules."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def compile_quickly():
    """For modules of small programs that run once each: compiling them is most of the time."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def run_script(tmp_path, monkeypatch, capsys):
    """Run a script as `python NAME ARGUMENTS` would, in this process; return what it printed."""

    def script(path, *arguments: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [path.name, *arguments])
        runpy.run_path(str(path), run_name="__main__")
        for picture in (tmp_path / "figures").glob("*.png"):
            seen = imread(picture)
            assert min(seen.shape[:2]) > 300
            assert seen[..., :3].std() > 0.05  # something is drawn
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
