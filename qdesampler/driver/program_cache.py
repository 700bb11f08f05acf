"""The compiled programs of a driver, kept for later runs of the same object."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from numpyro.infer.mcmc import MCMCKernel

from qdesampler.driver.groups import ChainGroups
from qdesampler.driver.program import (
    ChainProgram,
    CollectedFields,
    ProgramSettings,
    fresh_copy,
    over_devices,
)
from qdesampler.infer.model.fingerprint import data_lines

__all__ = ["ProgramCache"]

_MOST_PROGRAMS = (
    4  # programs; data that are constants in a program need a new one each time, which takes memory
)


class ProgramCache:
    """Makes one program for each set of arguments and keeps the last four.

    Args:
        kernel: the user's kernel; the first program initialises and uses it, later programs use copies.
        pristine: a copy of the kernel that was never initialised.
        groups: the groups of chains.
        method: `chain_method` of the driver.
        num_warmup: iterations before the first draw.
        postprocess: maps one position to what is kept of it, or None for the kernel's own function.
        trace_args: whether arrays among the model's arguments are arguments of the programs.
    """

    def __init__(
        self,
        kernel: MCMCKernel,
        pristine: MCMCKernel,
        groups: ChainGroups,
        *,
        method: str | Callable,
        num_warmup: int,
        postprocess: Callable | None,
        trace_args: bool,
    ):
        self._kernel = kernel
        self._pristine = pristine
        self._groups = groups
        self._method = method
        self._num_warmup = num_warmup
        self._postprocess = postprocess
        self._trace_args = trace_args
        self._made = False
        self._programs: OrderedDict[tuple, ChainProgram] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """State for copies and pickles, without compiled programs."""
        return vars(self) | {"_programs": OrderedDict()}

    def get(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        fields: CollectedFields,
        most_rows: int,
    ) -> ChainProgram:
        """The program for these arguments and collected fields; no chunk has more than `most_rows` rows."""
        described = data_lines(args, kwargs)
        if self._trace_args:  # the program depends only on the shapes and types of arrays
            described = {name: line.split("]")[0] for name, line in described.items()}
        structure = jax.tree.structure((tuple(args), dict(kwargs)))
        name = (
            fields,
            structure,
            tuple(described.items()),
            jax.config.jax_enable_x64,
            most_rows,
        )
        if name in self._programs:
            self._programs.move_to_end(name)
        else:
            while len(self._programs) >= _MOST_PROGRAMS:
                self._programs.popitem(last=False)
            used = self._made or getattr(self._kernel, "_sample_fn", None) is not None
            self._made = True
            settings = ProgramSettings(
                self._pristine,
                self._num_warmup,
                self._postprocess,
                self._transform(),
                self._trace_args,
                self._groups,
            )
            self._programs[name] = ChainProgram(
                fresh_copy(self._pristine) if used else self._kernel,
                settings,
                args=args,
                kwargs=kwargs,
                fields=fields,
                most_rows=most_rows,
            )
        return self._programs[name]

    def _transform(self) -> Callable | None:
        if not self._groups.transformed:
            return None
        if callable(self._method):
            return self._method
        devices = jax.devices()[: self._groups.chains]
        return over_devices(Mesh(np.array(devices), ("chains",)))
