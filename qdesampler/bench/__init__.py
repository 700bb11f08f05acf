"""Kernels compared on models: evaluations, effective draws, error, wall time.

    python -m qdesampler.bench --models eight_schools,banana --kernels qde,nuts --seeds 0,1,2 --out table.md
    python -m qdesampler.bench.startup models/eight_schools --repeats 5

The unit of cost is one evaluation of the log density with its gradient; the warm-up's are counted too.
"""

from qdesampler.bench.kernels import KERNELS as KERNELS
from qdesampler.bench.measure import Record as Record
from qdesampler.bench.measure import Settings as Settings
from qdesampler.bench.measure import measure as measure
from qdesampler.bench.table import ratios as ratios
from qdesampler.bench.targets import TARGETS as TARGETS
