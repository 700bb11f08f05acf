"""A run on the workers of MPI, for `mpiexec -n 3 python -m mpi4py.futures mpi_run.py FOLDER DRAWS`.

A worker dies at its hundredth call, if no worker has died before; MPI then ends the job.
"""

import sys
from pathlib import Path

import numpy as np
from mpi4py.futures import MPIPoolExecutor

import qdesampler
from tests.densities.functions import Once

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with MPIPoolExecutor(2) as pool:
        run = qdesampler.sample(
            Once(folder, "die", 100),
            dim=3,
            num_samples=20,
            executor=pool,
            checkpoint=folder / "points",
            progress=False,
        )
    np.savez(folder / "draws.npz", x=run.get_samples()["x"], made=run.costs.made)
