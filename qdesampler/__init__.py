"""qdesampler: posterior sampling for NumPyro by imaginary time.

A posterior is the ground state of a Hamiltonian; find it by imaginary time, then sample it exactly.

Names are imported on first use (`__init__.pyi` lists them), so that a sampler does not wait for the plotting
libraries.
"""

import importlib
import warnings
from typing import Any

import lazy_loader

__version__ = "0.1.0"

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# Names that were at the top until version 0.1, and the module and name that replace them.
_MOVED = {
    "AutoGroundState": ("infer", "AutoGroundState"),
    "GroundState": ("solvers", "GroundState"),
    "GroundStateDistribution": ("infer", "GroundStateDistribution"),
    "Schedule": ("equation", "Schedule"),
    "anneal": ("solvers", "anneal"),
    "anneal_walkers": ("evidence", "anneal_particles"),
    "diagnose_backend": ("annealers", "diagnose_backend"),
    "evolve": ("solvers", "evolve"),
    "find_modes": ("annealers", "find_modes"),
    "ladder_findings": ("evidence", "ladder_findings"),
    "ladder_summary": ("evidence", "ladder_summary"),
    "model_hamiltonian": ("infer", "model_hamiltonian"),
    "plot_evolution": ("plots", "plot_evolution"),
    "plot_ground_state": ("plots", "plot_ground_state"),
    "plot_ladder": ("plots", "plot_ladder"),
    "plot_reads": ("plots", "plot_reads"),
    "plot_trial": ("plots", "plot_trial"),
    "plot_zero_variance": ("plots", "plot_zero_variance"),
    "renew_pools": ("annealers", "renew_pools"),
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562); names of version 0.1 still work, with a warning."""
    if name in _MOVED:
        module, new_name = _MOVED[name]
        warnings.warn(
            f"qdesampler.{name} has moved: use `from qdesampler.{module} import {new_name}`.",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(importlib.import_module(f"qdesampler.{module}"), new_name)
    if name not in __all__:
        raise AttributeError(f"module 'qdesampler' has no attribute {name!r}; it has {', '.join(__all__)}.")
    return _load(name)
