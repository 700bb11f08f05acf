"""Kernels compared on models: evaluations, effective draws, error, wall time.

    python -m qdesampler.bench --models eight_schools,banana --kernels qde,nuts --seeds 0,1,2 --out table.md
    python -m qdesampler.bench --models hard --kernels all --out hard.csv,hard.md
    python -m qdesampler.bench.examples --chains 4 --out examples.csv,examples.md
    python -m qdesampler.bench.targets.make_truths brownian-32 --draws 20000
    python -m qdesampler.bench.driver.seconds models/eight_schools --repeats 5

The unit of cost is one evaluation of the log density with its gradient; the warm-up's are counted too.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
