"""Workers of MPI: where one dies the job ends, and the next one goes on from the checkpoint."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import qdesampler
from tests.densities.functions import gaussian

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("mpi_run.py")


def job(folder):
    """Whether the job ended by itself."""
    mpiexec = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert mpiexec
    return subprocess.run(
        [mpiexec, "-n", "3", sys.executable, "-m", "mpi4py.futures", str(SCRIPT), str(folder)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_a_job_of_mpi_whose_worker_died_goes_on_from_the_checkpoint(tmp_path):
    pytest.importorskip("mpi4py")
    first = job(tmp_path)
    assert first.returncode != 0
    assert (tmp_path / "done").exists()  # the worker that died has left its mark
    assert not (tmp_path / "draws.npz").exists()
    second = job(tmp_path)
    assert second.returncode == 0, second.stderr
    expected = qdesampler.sample(gaussian, dim=3, num_samples=20, chunk_size=1, progress=False)
    with np.load(tmp_path / "draws.npz") as found:
        assert np.array_equal(found["x"], expected.get_samples()["x"])
        assert found["made"] < expected.costs.made - 50  # what the first job had evaluated was kept
