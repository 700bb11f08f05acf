"""Annealers behind one protocol: Ising problems in, reads out, and what may be believed of their law."""

from qdesampler.backends.bifurcation import SimulatedBifurcation
from qdesampler.backends.dimod_adapter import BackendRetryWarning, DimodBackend, from_bqm, to_bqm
from qdesampler.backends.dimod_sampler import as_dimod
from qdesampler.backends.exact_enumeration import ExactEnumeration
from qdesampler.backends.gibbs_surrogate import GibbsSurrogate
from qdesampler.backends.path_integral import PathIntegralAnnealing
from qdesampler.backends.pool import build_pool
from qdesampler.backends.problem import IsingProblem, bits_to_spins, spins_to_bits
from qdesampler.backends.protocol import (
    AnnealingBackend,
    BackendError,
    Capabilities,
    ProblemTooLargeError,
    Samples,
)
from qdesampler.backends.quantum_dynamics import QuantumDynamics, TransverseGroundState
from qdesampler.backends.simulated_annealing import SimulatedAnnealing, log_partition_estimate
from qdesampler.backends.thrml_adapter import ThrmlBackend
from qdesampler.backends.tree_decomposition import TreeDecomposition

__all__ = [
    "AnnealingBackend",
    "BackendError",
    "BackendRetryWarning",
    "Capabilities",
    "DimodBackend",
    "ExactEnumeration",
    "GibbsSurrogate",
    "IsingProblem",
    "PathIntegralAnnealing",
    "ProblemTooLargeError",
    "QuantumDynamics",
    "Samples",
    "SimulatedAnnealing",
    "SimulatedBifurcation",
    "ThrmlBackend",
    "TransverseGroundState",
    "TreeDecomposition",
    "as_dimod",
    "bits_to_spins",
    "build_pool",
    "from_bqm",
    "log_partition_estimate",
    "spins_to_bits",
    "to_bqm",
]
