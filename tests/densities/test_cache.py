"""Checkpoints: nothing is evaluated twice, a killed run goes on to the same draws; files that are wrong."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import qdesampler
from qdesampler.densities.cache import EvaluationCache
from qdesampler.driver.checkpoint import CheckpointError
from tests.densities.functions import gaussian

# Imports take the most of a process: one that has made them forks another for every line that it reads.
LONG = """
import os, sys, time
import qdesampler
from tests.densities.functions import gaussian
qdesampler.sample

def evaluate(points):
    time.sleep(0.003 * len(points))
    return gaussian(points)

for _ in sys.stdin:
    process = os.fork()
    if process == 0:
        qdesampler.sample(evaluate, dim=3, num_samples=200, checkpoint=sys.argv[1], progress=False)
        os._exit(0)
    print(process, flush=True)
    print(os.waitpid(process, 0)[1], flush=True)
"""


class Counted:
    def __init__(self):
        self.points = []

    def __call__(self, points):
        self.points += [point.tobytes() for point in points]
        return gaussian(points)


def sampled(evaluate, path, **options):
    settings = {"dim": 3, "num_samples": 200, "progress": False} | options
    return qdesampler.sample(evaluate, checkpoint=path, **settings)


def test_a_finished_run_is_there_for_one_evaluation(tmp_path):
    first, second = Counted(), Counted()
    run = sampled(first, tmp_path / "run.points")
    # One point is asked for twice, to see whether its density is the same again.
    assert len(first.points) - 1 == len(set(first.points))
    again = sampled(second, tmp_path / "run.points")
    assert len(second.points) == again.costs.made == 1
    assert np.array_equal(run.get_samples()["x"], again.get_samples()["x"])
    assert again.costs.evaluations == run.costs.evaluations
    longer = sampled(Counted(), tmp_path / "run.points", num_samples=220)
    assert longer.costs.made < 200
    assert np.array_equal(longer.get_samples(True)["x"][:, :200], run.get_samples(True)["x"])


def test_a_killed_run_loses_nothing_and_ends_with_the_same_draws(tmp_path):
    """It is killed in the warm-up, and again while it draws."""
    path, counts = tmp_path / "run.points", []
    record = 8 + 8 * 7
    with subprocess.Popen(
        [sys.executable, "-c", LONG, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        for records in (60, 400):
            parent.stdin.write("go\n")
            parent.stdin.flush()
            process, deadline = int(parent.stdout.readline()), time.monotonic() + 120
            while not (path.exists() and path.stat().st_size > records * record):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            os.kill(process, signal.SIGKILL)
            assert int(parent.stdout.readline()) == signal.SIGKILL, "it was done too soon"
            counts.append((path.stat().st_size - 100) // record)
    counted = Counted()
    run = sampled(counted, path)
    whole = sampled(gaussian, tmp_path / "other.points")
    assert np.array_equal(run.get_samples()["x"], whole.get_samples()["x"])
    assert len(set(counted.points)) + counts[1] <= whole.costs.evaluations + 2
    assert counts[1] > 390
    assert run.costs.made == len(counted.points)


def test_a_record_that_was_cut_short_is_dropped(tmp_path):
    path = tmp_path / "points"
    cache = EvaluationCache(path, 2)
    points = np.arange(6.0).reshape(3, 2)
    cache.add(points[:1], np.array([1.0]), points[:1] + 1)
    cache.add(points[1:], np.array([2.0, 3.0]), None)
    cache.close()
    size = path.stat().st_size
    with open(path, "ab") as file:
        file.write(b"\x02\x00\x00\x00half a record")
    again = EvaluationCache(path, 2)
    assert again.loaded == 3
    value, score = again.find(points[0])
    assert value == 1.0
    assert np.array_equal(score, points[0] + 1)
    assert again.find(points[2]) == (3.0, None)
    assert again.find(points[2] + 1) is None
    again.close()
    assert path.stat().st_size == size
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    assert EvaluationCache(path, 2).loaded == 1


def test_another_density_is_refused(tmp_path):
    sampled(gaussian, tmp_path / "points", num_samples=5)

    def other(points):
        values, scores = gaussian(points)
        return values - 1.0, scores

    with pytest.raises(CheckpointError, match="The checkpoint is of another density"):
        sampled(other, tmp_path / "points", num_samples=5)


def test_files_that_are_no_checkpoints(tmp_path):
    sampled(gaussian, tmp_path / "points", num_samples=5)
    with pytest.raises(CheckpointError, match="no checkpoint of a density with 2 columns"):
        EvaluationCache(tmp_path / "points", 2)
    with pytest.raises(CheckpointError, match="cannot be opened as a checkpoint"):
        EvaluationCache(tmp_path / "none" / "points", 2)


def test_a_file_has_one_run_at_a_time(tmp_path):
    cache = EvaluationCache(tmp_path / "points", 3)
    with pytest.raises(CheckpointError, match="in use by another run"):
        sampled(gaussian, tmp_path / "points")
    cache.close()
    assert sampled(gaussian, tmp_path / "points", num_samples=5).num_samples == 5


def test_a_budget_counts_what_the_checkpoint_knows(tmp_path):
    short = sampled(gaussian, tmp_path / "points", max_evals=400)
    assert short.ended_by == "max_evals"
    longer = sampled(gaussian, tmp_path / "points", max_evals=500)
    assert longer.costs.evaluations <= 500
    assert longer.costs.made <= 500 - short.costs.evaluations + 2
    assert longer.num_samples > short.num_samples
    same = longer.get_samples(True)["x"][:, : short.num_samples]
    assert np.array_equal(same, short.get_samples(True)["x"])
