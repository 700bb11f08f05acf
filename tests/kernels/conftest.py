"""Programs of this room run briefly: most of their time would go into XLA's optimisations."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def _compile_quickly():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
