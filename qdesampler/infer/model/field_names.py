"""Names of collected fields: ArviZ's name if it has one."""

from collections import Counter
from collections.abc import Collection

__all__ = ["statistic_names", "variable_name"]

# From NumPyro's name of a field (the last part of its path) to ArviZ's.
_ARVIZ_NAMES = {
    "potential_energy": "lp",
    "energy": "energy",
    "accept_prob": "acceptance_rate",
    "diverging": "diverging",
    "step_size": "step_size",
    "num_steps": "n_steps",
    "num_evals": "num_evals",
    "trajectory_length": "trajectory_length",
}


def statistic_names(paths: Collection[str]) -> dict[str, str]:
    """ArviZ's name for each field of a state at any depth (`adapt_state.step_size` is `step_size`).

    A field that ArviZ does not know, or whose name two fields would share, keeps its path. `lp` is minus the
    potential energy.
    """
    endings = Counter(path.rpartition(".")[2] for path in paths)
    names = {}
    for path in paths:
        ending = path.rpartition(".")[2]
        known = ending in _ARVIZ_NAMES and endings[ending] == 1
        names[path] = _ARVIZ_NAMES[ending] if known else path
    return names


def variable_name(site: str) -> str:
    """A site's name as a variable name: netCDF and DataTree keep '/' (`handlers.scope`) for groups."""
    return site.replace("/", ".")
