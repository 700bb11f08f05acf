"""Kernels compared on models: evaluations, effective draws, error, wall time.

    python -m qdesampler.bench --models eight_schools,banana --kernels qde,nuts --seeds 0,1,2 --out table.md
    python -m qdesampler.bench --models hard --kernels all --out hard.csv,hard.md
    python -m qdesampler.bench.targets.make_truths brownian-32 --draws 20000
    python -m qdesampler.bench.driver.startup models/eight_schools --repeats 5

The unit of cost is one evaluation of the log density with its gradient; the warm-up's are counted too.
"""

from qdesampler.bench.harness.record import Record as Record
from qdesampler.bench.harness.record import Settings as Settings
from qdesampler.bench.harness.table import savings as savings
from qdesampler.bench.measurement import measure as measure
from qdesampler.bench.peers.numpyro import KERNELS as KERNELS
from qdesampler.bench.peers.registry import RUNNERS as RUNNERS
from qdesampler.bench.targets.closed_form import TARGETS as TARGETS
from qdesampler.bench.targets.hard import HARD_TARGETS as HARD_TARGETS
