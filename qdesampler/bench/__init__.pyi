from .harness.record import Record as Record
from .harness.record import Settings as Settings
from .harness.table import savings as savings
from .measurement import measure as measure
from .peers.numpyro import KERNELS as KERNELS
from .peers.registry import RUNNERS as RUNNERS
from .targets.closed_form import TARGETS as TARGETS
from .targets.hard import HARD_TARGETS as HARD_TARGETS
