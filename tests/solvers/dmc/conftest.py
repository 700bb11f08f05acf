"""Diffusion Monte Carlo runs thousands of steps: its programs are worth XLA's optimisations."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def _optimise():
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
