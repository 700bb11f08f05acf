"""All examples by name."""

from qdesampler.bench.examples.example import Builder
from qdesampler.bench.examples.models.annotation import EXAMPLES as ANNOTATION
from qdesampler.bench.examples.models.capture_recapture import EXAMPLES as CAPTURE_RECAPTURE
from qdesampler.bench.examples.models.dynamics import EXAMPLES as DYNAMICS
from qdesampler.bench.examples.models.gaussian_processes import EXAMPLES as GAUSSIAN_PROCESSES
from qdesampler.bench.examples.models.geometry import EXAMPLES as GEOMETRY
from qdesampler.bench.examples.models.hidden_markov import EXAMPLES as HIDDEN_MARKOV
from qdesampler.bench.examples.models.hierarchical import EXAMPLES as HIERARCHICAL
from qdesampler.bench.examples.models.incomplete import EXAMPLES as INCOMPLETE
from qdesampler.bench.examples.models.large_hierarchies import EXAMPLES as LARGE_HIERARCHIES
from qdesampler.bench.examples.models.mixtures import EXAMPLES as MIXTURES
from qdesampler.bench.examples.models.networks import EXAMPLES as NETWORKS
from qdesampler.bench.examples.models.regressions import EXAMPLES as REGRESSIONS
from qdesampler.bench.examples.models.shrinkage import EXAMPLES as SHRINKAGE
from qdesampler.bench.examples.models.time_series import EXAMPLES as TIME_SERIES

__all__ = ["EXAMPLES", "GROUPS"]

EXAMPLES: dict[str, Builder] = (
    ANNOTATION
    | CAPTURE_RECAPTURE
    | DYNAMICS
    | GAUSSIAN_PROCESSES
    | GEOMETRY
    | HIDDEN_MARKOV
    | HIERARCHICAL
    | INCOMPLETE
    | MIXTURES
    | NETWORKS
    | REGRESSIONS
    | SHRINKAGE
    | TIME_SERIES
    | LARGE_HIERARCHIES
)

GROUPS = ("examples", "hierarchies")
