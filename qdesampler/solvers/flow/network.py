r"""The bijection of a flow trial: coupling layers of flowjax, the identity before training.

Each layer keeps one half of the coordinates; from these a small network computes the four numbers of a
smooth elementwise map for each of the others (the sinh-arcsinh family of Jones and Pewsey 2009),

    y = shift + exp(s) sinh(t arcsinh u + k) / t,        |s| < 3,   |k| < 1,   |log t| < 0.15.

The bounds keep the tails: many layers with powers far from 1 would map points just outside of the training
points to where `q` vanishes. The map bends, skews and widens, has an inverse in closed form, and derivatives
of every order. A spline between knots does not have these, and a trial state is differentiated twice. Layers
come in pairs, first one half, then the other; a random permutation divides the coordinates again for each
pair. In one dimension the four numbers are free parameters.

A network whose last layer is zero gives `s = k = shift = 0`, `t = 1`, so training starts at `y = u`.
"""

import functools
from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

__all__ = ["Network", "forward", "inverse", "network"]

_MOST_LOG_SCALE, _MOST_SKEW, _MOST_LOG_TAIL = 3.0, 1.0, 0.15  # bounds of |s|, |k| and |log t| above
_MOST_ARCSINH = 38.0  # argument of sinh beyond which its square overflows float32


class Network(tuple):
    """What a bijection is apart from its numbers, `(tree, static)`; hashable for `jit`."""

    __slots__ = ()


@functools.cache
def _library() -> SimpleNamespace:
    """Flowjax, with the elementwise map as one of its bijections.

    Raises:
        ModuleNotFoundError: flowjax is not installed.
    """
    try:
        from flowjax.bijections import AbstractBijection, Chain, Coupling, Permute, Scan, Vmap
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "FlowTrial needs the package flowjax, an optional extra: pip install 'qdesampler[flow]'.",
            name=error.name,
        ) from error

    class SinhArcsinh(AbstractBijection):
        """The elementwise map; its four numbers are zero at the identity."""

        shape: tuple[int, ...]
        cond_shape: ClassVar[None] = None
        shift: jax.Array
        log_scale: jax.Array
        skew: jax.Array
        log_tail: jax.Array

        def __init__(self):
            self.shape = ()
            self.shift = self.log_scale = self.skew = self.log_tail = jnp.zeros(())

        def _bounded(self):
            log_scale = _MOST_LOG_SCALE * jnp.tanh(self.log_scale / _MOST_LOG_SCALE)
            tail = jnp.exp(_MOST_LOG_TAIL * jnp.tanh(self.log_tail / _MOST_LOG_TAIL))
            return log_scale, tail, _MOST_SKEW * jnp.tanh(self.skew / _MOST_SKEW)

        def transform_and_log_det(self, x, condition=None):
            log_scale, tail, skew = self._bounded()
            bent = jnp.clip(tail * jnp.arcsinh(x) + skew, -_MOST_ARCSINH, _MOST_ARCSINH)
            y = self.shift + jnp.exp(log_scale) * jnp.sinh(bent) / tail
            return y, jnp.sum(log_scale + jnp.log(jnp.cosh(bent)) - 0.5 * jnp.log1p(x**2))

        def inverse_and_log_det(self, y, condition=None):
            log_scale, tail, skew = self._bounded()
            scaled = (y - self.shift) * jnp.exp(-log_scale) * tail
            largest = jnp.sqrt(jnp.finfo(scaled.dtype).max) / 4  # its square is still a number
            scaled = jnp.clip(scaled, -largest, largest)
            bent = jnp.clip((jnp.arcsinh(scaled) - skew) / tail, -_MOST_ARCSINH, _MOST_ARCSINH)
            straight = log_scale + 0.5 * jnp.log1p(scaled**2) - jnp.log(jnp.cosh(bent))
            return jnp.sinh(bent), -jnp.sum(straight)

    return SimpleNamespace(
        Chain=Chain, Coupling=Coupling, Permute=Permute, Scan=Scan, Vmap=Vmap, SinhArcsinh=SinhArcsinh
    )


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array)


def _stack(layers: list[Any]) -> Any:
    """Layers of one structure as one, arrays stacked along a new leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves) if _is_array(leaves[0]) else leaves[0], *layers)


def _without_output(coupling: Any) -> Any:
    """The coupling with the last layer of its network set to zero."""

    def blank(path, leaf):
        last = any(getattr(key, "name", None) == "layers" for key in path) and any(
            getattr(key, "idx", None) == len(coupling.conditioner.layers) - 1 for key in path
        )
        return jnp.zeros_like(leaf) if last and _is_array(leaf) else leaf

    return jax.tree_util.tree_map_with_path(blank, coupling)


def network(key: jax.Array, dim: int, layers: int, width: int) -> tuple[tuple[jax.Array, ...], Network]:
    """Numbers and form of a bijection of `R^dim`, the identity up to rounding.

    Args:
        key: for permutations and the first layers of the networks.
        dim: number of coordinates.
        layers: number of coupling layers (in one dimension: of elementwise maps).
        width: of the one hidden layer of each network.

    Raises:
        ModuleNotFoundError: flowjax is not installed.
    """
    bijection = _build(key, dim, layers, width)
    return _numbers(bijection), _form(dim, layers, width, str(jnp.result_type(float)))


def _build(key: jax.Array, dim: int, layers: int, width: int) -> Any:
    library = _library()
    if dim == 1:
        return library.Scan(_stack([library.Vmap(library.SinhArcsinh(), axis_size=1) for _ in range(layers)]))
    order, stages = jnp.arange(dim), []
    for i in range(layers):
        key, key_network, key_order = jax.random.split(key, 3)
        coupling = library.Coupling(
            key_network,
            transformer=library.SinhArcsinh(),
            untransformed_dim=dim // 2,
            dim=dim,
            nn_width=width,
            nn_depth=1,
            nn_activation=jax.nn.silu,
        )
        swapped = jnp.roll(jnp.arange(dim), dim // 2)  # the transformed half comes first
        permutation = swapped if i % 2 == 0 else jax.random.permutation(key_order, dim)
        order = order[permutation]
        stages.append(library.Chain([_without_output(coupling), library.Permute(permutation)]))
    return library.Chain([library.Scan(_stack(stages)), library.Permute(jnp.argsort(order))])


@functools.lru_cache(maxsize=64)
def _form(dim: int, layers: int, width: int, dtype: str) -> Network:
    """The form alone, the same object for the same sizes, so that nothing is compiled twice."""
    leaves, tree = jax.tree.flatten(_build(jax.random.key(0), dim, layers, width))
    return Network((tree, tuple(None if _is_array(leaf) else leaf for leaf in leaves)))


def _numbers(bijection: Any) -> tuple[jax.Array, ...]:
    return tuple(leaf for leaf in jax.tree.leaves(bijection) if _is_array(leaf))


def _join(numbers: tuple[jax.Array, ...], form: Network) -> Any:
    tree, static = form
    rest = iter(numbers)
    return jax.tree.unflatten(tree, [next(rest) if leaf is None else leaf for leaf in static])


def forward(numbers: tuple[jax.Array, ...], form: Network, u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`y = T(u)`, shape `(dim,)`, and `log |det dy/du|`."""
    return _join(numbers, form).transform_and_log_det(u)


def inverse(numbers: tuple[jax.Array, ...], form: Network, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`u = T^-1(y)`, shape `(dim,)`, and `log |det du/dy|`."""
    return _join(numbers, form).inverse_and_log_det(y)
