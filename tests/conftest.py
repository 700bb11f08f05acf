"""Shared fixtures: float64 on request, and compiled programs dropped after each module."""

import jax
import pytest


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
