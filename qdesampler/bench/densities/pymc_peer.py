"""PyMC's own NUTS on a function of NumPy: an operation of PyTensor that calls it, with its gradient.

PyMC is optional: `pip install 'qdesampler[pymc]'`.
"""

import logging
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from qdesampler.bench.densities.nuts_peer import NutsRun

__all__ = ["black_box_model", "model_of", "pymc_nuts"]


def _pymc() -> ModuleType:
    try:
        import pymc
    except ImportError as error:
        raise ImportError(
            "PyMC is not installed: pip install 'qdesampler[pymc]', or leave it out."
        ) from error
    return pymc


def model_of(write: Callable, data: Mapping[str, Any]) -> Any:
    """The PyMC model of a function `write(pymc, **data)`.

    Raises:
        ImportError: PyMC is not installed.
    """
    pm = _pymc()
    with pm.Model(coords={"school": range(8)}) as model:
        write(pm, **data)
    return model


def black_box_model(evaluate: Callable, dim: int) -> Any:
    """A PyMC model with the flat variable `x` and the log density of `evaluate` as its potential.

    The operation has two outputs, the log density and its score, so that both cost one call.

    Args:
        evaluate: `points (n, dim) -> (log densities, scores)`, in NumPy.
        dim: number of coordinates.

    Raises:
        ImportError: PyMC is not installed.
    """
    pm = _pymc()
    import pytensor.tensor as pt
    from pytensor.graph.basic import Apply
    from pytensor.graph.op import Op

    class BlackBox(Op):
        def make_node(self, *inputs):
            return Apply(self, [pt.as_tensor_variable(inputs[0])], [pt.dscalar(), pt.dvector()])

        def perform(self, node, inputs, output_storage):
            values, scores = evaluate(np.asarray(inputs[0], float).reshape(1, dim))
            output_storage[0][0] = np.asarray(values[0], float)
            output_storage[1][0] = np.asarray(scores[0], float)

        def pullback(self, inputs, outputs: Any, cotangents: Any):
            return [cotangents[0] * outputs[1]]

    box: Any = BlackBox()
    with pm.Model() as model:
        x = pm.Flat("x", shape=dim)
        pm.Potential("density", box(x)[0])
    return model


def pymc_nuts(evaluate: Callable, dim: int, warmup: int, draws: int, chains: int) -> NutsRun:
    """A run of PyMC's NUTS, chains one after another, with every call of `evaluate` counted.

    Args:
        evaluate: the density.
        dim: number of coordinates.
        warmup: tuning iterations of each chain.
        draws: of each chain.
        chains: number of chains.

    Raises:
        ImportError: PyMC is not installed.
    """
    calls, at_last, kept = [0], [0], [0]

    def counted(points):
        calls[0] += len(points)
        return evaluate(points)

    def after(trace, draw):
        """Calls since the draw before belong to this one."""
        if not draw.tuning:
            kept[0] += calls[0] - at_last[0]
        at_last[0] = calls[0]

    pm, model = _pymc(), black_box_model(counted, dim)
    quiet = logging.getLogger("pymc")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with model:
            trace: Any = pm.sample(
                draws,
                tune=warmup,
                chains=chains,
                cores=1,
                random_seed=0,
                progressbar=False,
                compute_convergence_checks=False,
                nuts_sampler="pymc",
                callback=after,
            )
    finally:
        quiet.setLevel(level)
    found = np.asarray(trace["posterior"]["x"], float)
    return NutsRun(found, calls[0] - kept[0], kept[0])
