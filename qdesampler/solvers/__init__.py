"""Imaginary-time solvers; each returns a `GroundState`."""

from qdesampler.solvers.annealing.minimise import AnnealedMinimum, anneal
from qdesampler.solvers.annealing.path import ImaginaryTimePath, evolve
from qdesampler.solvers.dmc.solver import PopulationError, Walkers, WalkersWarning
from qdesampler.solvers.flow.solver import FlowTrial, FlowTrialWarning
from qdesampler.solvers.flow.wavefunction import FlowWavefunction
from qdesampler.solvers.gaussian.solver import GaussianTrial, GaussianTrialWarning
from qdesampler.solvers.gaussian.wavefunction import GaussianWavefunction
from qdesampler.solvers.grid.imaginary_time import ImaginaryTimeTrajectory, propagate
from qdesampler.solvers.grid.real_time import RealTimeTrajectory, propagate_real_time
from qdesampler.solvers.grid.spectral import GridWarning, SpectralGrid
from qdesampler.solvers.protocol import GroundState, NoGroundStateError, Solver, Wavefunction, ground_state

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
