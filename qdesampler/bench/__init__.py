"""Kernels compared on models: evaluations, effective draws, error, wall time.

    python -m qdesampler.bench --models eight_schools,banana --kernels qde,nuts --seeds 0,1,2 --out table.md
    python -m qdesampler.bench --models hard --kernels all --out hard.csv,hard.md
    python -m qdesampler.bench.truth brownian-32 --draws 20000
    python -m qdesampler.bench.startup models/eight_schools --repeats 5

The unit of cost is one evaluation of the log density with its gradient; the warm-up's are counted too.
"""

from qdesampler.bench.hard_targets import HARD_TARGETS as HARD_TARGETS
from qdesampler.bench.kernels import KERNELS as KERNELS
from qdesampler.bench.measure import measure as measure
from qdesampler.bench.peers import RUNNERS as RUNNERS
from qdesampler.bench.record import Record as Record
from qdesampler.bench.record import Settings as Settings
from qdesampler.bench.table import savings as savings
from qdesampler.bench.targets import TARGETS as TARGETS
