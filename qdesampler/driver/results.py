"""Draws, collected fields and the report of a finished run."""

import copy
from typing import Any, Self

import jax
from numpyro.infer import MCMC as NumPyroMCMC

from qdesampler.driver.draw_store import StoredFields
from qdesampler.driver.groups import ChainGroups
from qdesampler.driver.processes import whole_leaf
from qdesampler.driver.progress import RunReport

__all__ = ["RunResults"]


class RunResults(NumPyroMCMC):
    """The draws of a run, in memory or in a store, of this process or of all processes, and the report."""

    _groups: ChainGroups
    _report: RunReport | None = None

    def gathered(self) -> Self:
        """The run with the chains of all processes, for summaries; every process has to call this.

        With one process it is the run itself.
        """
        processes = self._groups.processes
        if processes.count == 1:
            return self
        fields = {} if self._states is None else dict(self._states)
        twin = copy.copy(self)
        twin._states = jax.tree.map(processes.gathered, fields) if fields else None
        twin._states_flat = None
        twin._last_state = jax.tree.map(whole_leaf, self._last_state)
        return twin

    def get_samples(self, group_by_chain: bool = False) -> Any:
        """Draws of this process: arrays (draw, ...), or (chain, draw, ...) with `group_by_chain`."""
        if self._states is None:
            raise RuntimeError("There are no draws yet: call `run` first.")
        return super().get_samples(group_by_chain)

    def get_extra_fields(self, group_by_chain: bool = False) -> dict[str, Any]:
        """The fields collected besides the draws, from name to arrays with the axes of `get_samples`."""
        if self._states is None:
            raise RuntimeError("There are no draws yet: call `run` first.")
        if not isinstance(self._states, StoredFields):
            return super().get_extra_fields(group_by_chain)
        fields = self._states if group_by_chain else self._states.flat()
        return {name: fields[name] for name in fields if name != self._sample_field}

    def _get_states_flat(self):
        if isinstance(self._states, StoredFields):
            return self._states.flat()
        return super()._get_states_flat()

    @property
    def report(self) -> RunReport:
        """The report on the last run."""
        if self._report is None:
            raise RuntimeError("There is no run yet to report on: call `run` first.")
        return self._report
