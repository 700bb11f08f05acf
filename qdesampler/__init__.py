"""qdesampler: posterior sampling for NumPyro by imaginary time.

A posterior is the ground state of a Hamiltonian; find it by imaginary time, then sample it exactly.

Names are imported on first use, so that a sampler does not wait for the plotting libraries.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qdesampler.diagnostics import diagnose as diagnose
    from qdesampler.diagnostics import diagnose_backend as diagnose_backend
    from qdesampler.diagnostics import ladder_findings as ladder_findings
    from qdesampler.diagnostics import ladder_summary as ladder_summary
    from qdesampler.diagnostics import plot_evolution as plot_evolution
    from qdesampler.diagnostics import plot_ground_state as plot_ground_state
    from qdesampler.diagnostics import plot_ladder as plot_ladder
    from qdesampler.diagnostics import plot_reads as plot_reads
    from qdesampler.diagnostics import plot_trial as plot_trial
    from qdesampler.diagnostics import plot_zero_variance as plot_zero_variance
    from qdesampler.diagnostics import report as report
    from qdesampler.diagnostics import summary as summary
    from qdesampler.diagnostics import to_datatree as to_datatree
    from qdesampler.diagnostics import zero_variance as zero_variance
    from qdesampler.equation import Hamiltonian as Hamiltonian
    from qdesampler.equation import Schedule as Schedule
    from qdesampler.infer import MCMC as MCMC
    from qdesampler.infer import QDE as QDE
    from qdesampler.infer import AnnealedQDE as AnnealedQDE
    from qdesampler.infer import AnnealerGibbs as AnnealerGibbs
    from qdesampler.infer import AutoGroundState as AutoGroundState
    from qdesampler.infer import GroundStateDistribution as GroundStateDistribution
    from qdesampler.infer import anneal_walkers as anneal_walkers
    from qdesampler.infer import compare_evidence as compare_evidence
    from qdesampler.infer import find_modes as find_modes
    from qdesampler.infer import load_model as load_model
    from qdesampler.infer import log_evidence as log_evidence
    from qdesampler.infer import model_hamiltonian as model_hamiltonian
    from qdesampler.infer import renew_pools as renew_pools
    from qdesampler.solvers import FlowTrial as FlowTrial
    from qdesampler.solvers import GaussianTrial as GaussianTrial
    from qdesampler.solvers import GroundState as GroundState
    from qdesampler.solvers import SpectralGrid as SpectralGrid
    from qdesampler.solvers import Walkers as Walkers
    from qdesampler.solvers import anneal as anneal
    from qdesampler.solvers import evolve as evolve
    from qdesampler.solvers import ground_state as ground_state

__version__ = "0.1.0"

_ROOM_OF = {
    "AnnealedQDE": "infer",
    "AnnealerGibbs": "infer",
    "AutoGroundState": "infer",
    "FlowTrial": "solvers",
    "GaussianTrial": "solvers",
    "GroundState": "solvers",
    "GroundStateDistribution": "infer",
    "Hamiltonian": "equation",
    "MCMC": "infer",
    "QDE": "infer",
    "Schedule": "equation",
    "SpectralGrid": "solvers",
    "Walkers": "solvers",
    "anneal": "solvers",
    "anneal_walkers": "infer",
    "compare_evidence": "infer",
    "diagnose": "diagnostics",
    "diagnose_backend": "diagnostics",
    "evolve": "solvers",
    "find_modes": "infer",
    "ground_state": "solvers",
    "ladder_findings": "diagnostics",
    "ladder_summary": "diagnostics",
    "load_model": "infer",
    "log_evidence": "infer",
    "model_hamiltonian": "infer",
    "plot_evolution": "diagnostics",
    "plot_ground_state": "diagnostics",
    "plot_ladder": "diagnostics",
    "plot_reads": "diagnostics",
    "plot_trial": "diagnostics",
    "plot_zero_variance": "diagnostics",
    "renew_pools": "infer",
    "report": "diagnostics",
    "summary": "diagnostics",
    "to_datatree": "diagnostics",
    "zero_variance": "diagnostics",
}

__all__ = sorted(_ROOM_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import a public name from its room on first use (PEP 562)."""
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'qdesampler' has no attribute {name!r}; it has {', '.join(__all__)}.")
    value = getattr(import_module(f"qdesampler.{_ROOM_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
