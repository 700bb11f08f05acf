"""Types that several rooms share."""

from collections.abc import Callable

import jax

__all__ = ["ValueAndScore"]

ValueAndScore = Callable[[jax.Array], tuple[jax.Array, jax.Array]]
"""A position `(dim,)` to its log density and the gradient of that, `(dim,)`."""
