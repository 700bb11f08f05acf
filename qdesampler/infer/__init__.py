"""NumPyro kernels and model tools; the only room that imports NumPyro."""

from qdesampler.infer.annealed import AnnealedQDE as AnnealedQDE
from qdesampler.infer.annealed_walkers import anneal_walkers as anneal_walkers
from qdesampler.infer.annealer_gibbs import AnnealerGibbs as AnnealerGibbs
from qdesampler.infer.annealer_pools import renew_pools as renew_pools
from qdesampler.infer.auto_ground_state import AutoGroundState as AutoGroundState
from qdesampler.infer.evidence import compare_evidence as compare_evidence
from qdesampler.infer.evidence import log_evidence as log_evidence
from qdesampler.infer.find_modes import Modes as Modes
from qdesampler.infer.find_modes import find_modes as find_modes
from qdesampler.infer.ground_state_distribution import GroundStateDistribution as GroundStateDistribution
from qdesampler.infer.load_model import ModelCase as ModelCase
from qdesampler.infer.load_model import ModelLoadError as ModelLoadError
from qdesampler.infer.load_model import list_models as list_models
from qdesampler.infer.load_model import load_model as load_model
from qdesampler.infer.model_hamiltonian import ModelHamiltonian as ModelHamiltonian
from qdesampler.infer.model_hamiltonian import model_hamiltonian as model_hamiltonian
from qdesampler.infer.qde import QDE as QDE
from qdesampler.infer.reference import ReferenceComparison as ReferenceComparison
from qdesampler.infer.reference import compare_with_reference as compare_with_reference
from qdesampler.infer.reference import flatten_draws as flatten_draws
from qdesampler.infer.reference import validate_reference as validate_reference
from qdesampler.infer.scores import RunScores as RunScores
from qdesampler.infer.scores import run_scores as run_scores
