"""Imaginary-time solvers; each returns a `GroundState`."""

from qdesampler.solvers.ground_state import GroundState, Solver, Wavefunction, ground_state
from qdesampler.solvers.imaginary_time import ImaginaryTimeTrajectory, propagate
from qdesampler.solvers.spectral import GridWarning, SpectralGrid

__all__ = [
    "GridWarning",
    "GroundState",
    "ImaginaryTimeTrajectory",
    "Solver",
    "SpectralGrid",
    "Wavefunction",
    "ground_state",
    "propagate",
]
