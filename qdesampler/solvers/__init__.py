"""Imaginary-time solvers; each returns a `GroundState`."""

from qdesampler.solvers.annealing import AnnealedMinimum, anneal
from qdesampler.solvers.evolution import ImaginaryTimePath, evolve
from qdesampler.solvers.flow import FlowTrial, FlowTrialWarning
from qdesampler.solvers.flow_state import FlowWavefunction
from qdesampler.solvers.gaussian import GaussianTrial, GaussianTrialWarning
from qdesampler.solvers.gaussian_state import GaussianWavefunction, NoGroundStateError
from qdesampler.solvers.ground_state import GroundState, Solver, Wavefunction, ground_state
from qdesampler.solvers.imaginary_time import ImaginaryTimeTrajectory, propagate
from qdesampler.solvers.real_time import RealTimeTrajectory, propagate_real_time
from qdesampler.solvers.spectral import GridWarning, SpectralGrid
from qdesampler.solvers.walkers import PopulationError, Walkers, WalkersWarning

__all__ = [
    "AnnealedMinimum",
    "FlowTrial",
    "FlowTrialWarning",
    "FlowWavefunction",
    "GaussianTrial",
    "GaussianTrialWarning",
    "GaussianWavefunction",
    "GridWarning",
    "GroundState",
    "ImaginaryTimePath",
    "ImaginaryTimeTrajectory",
    "NoGroundStateError",
    "PopulationError",
    "RealTimeTrajectory",
    "Solver",
    "SpectralGrid",
    "Walkers",
    "WalkersWarning",
    "Wavefunction",
    "anneal",
    "evolve",
    "ground_state",
    "propagate",
    "propagate_real_time",
]
