"""Workers of several executors: the same draws, and what happens when they fail, die or hang."""

import os
import signal
import time
import warnings
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

import qdesampler
from qdesampler.densities import EvaluationError
from qdesampler.densities.errors import EvaluationWarning
from tests.densities.functions import Once, dies, gaussian, raises, slow

# Processes that are forked hang where JAX has threads; these import the functions by name.
POOL = partial(ProcessPoolExecutor, 2, mp_context=__import__("multiprocessing").get_context("spawn"))


def sampled(evaluate=gaussian, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("default", EvaluationWarning)
        return qdesampler.sample(
            evaluate, **{"dim": 3, "num_samples": 20, "progress": False, "chunk_size": 1} | options
        )


@pytest.fixture(scope="module")
def expected():
    return sampled().get_samples()["x"]


def test_threads(expected):
    with ThreadPoolExecutor(2) as pool:
        run = sampled(executor=pool)
    assert np.array_equal(run.get_samples()["x"], expected)
    assert run.costs.lost == {}


def test_processes_of_chunks(expected):
    with POOL() as pool:
        run = sampled(executor=pool, chunk_size=8)
    np.testing.assert_allclose(run.get_samples()["x"], expected, rtol=1e-9)


@pytest.mark.parametrize("after", [0, 60])
def test_a_pool_is_made_anew_when_a_worker_dies(after, expected, tmp_path):
    run = sampled(Once(tmp_path, "die", after), executor=POOL)
    assert np.array_equal(run.get_samples()["x"], expected)
    assert run.costs.lost["executors"] == 1
    assert run.costs.lost["BrokenProcessPool"] >= 1
    assert qdesampler.to_datatree(run).attrs["lost_chunks"] >= 1


def test_this_process_goes_on_alone_when_it_cannot_make_a_pool(expected, tmp_path):
    with (
        POOL() as pool,
        pytest.warns(EvaluationWarning, match="executor is broken.*function that makes an executor"),
    ):
        run = sampled(Once(tmp_path, "die", 60), executor=pool)
    assert np.array_equal(run.get_samples()["x"], expected)
    assert run.costs.lost["fallback"] == 1


@pytest.mark.slow  # it waits for the time to be over, which a busy machine needs to start processes
def test_a_worker_that_hangs_is_not_waited_for(expected, tmp_path):
    began = time.monotonic()
    run = sampled(Once(tmp_path, "hang", 60), executor=POOL, timeout=15.0)
    assert np.array_equal(run.get_samples()["x"], expected)
    assert run.costs.lost["timeout"] >= 1
    assert time.monotonic() - began < 200


def test_points_that_kill_every_worker_are_named():
    with pytest.raises(EvaluationError, match=r"A worker was lost 2 times while it evaluated the point \["):
        sampled(dies, executor=POOL, retries=1)


def test_points_that_never_end_are_named():
    with pytest.raises(
        EvaluationError, match=r"No evaluation was finished in 0.5 s, 2 times; .* the point \["
    ):
        sampled(slow, executor=POOL, timeout=0.5, retries=1)


def test_exceptions_come_back_with_their_text_and_are_not_retried():
    calls = []

    def counted(points):
        calls.append(1)
        return raises(points)

    with ThreadPoolExecutor(1) as pool, pytest.raises(EvaluationError, match="did not converge"):
        sampled(counted, executor=pool)
    assert len(calls) <= 4


def test_executors_that_break_at_once():
    def make():
        pool = ThreadPoolExecutor(1)
        pool.shutdown()
        return pool

    with pytest.raises(EvaluationError, match="4 executors broke one after another"):
        sampled(executor=make)


class Unreliable(Executor):
    """Loses every fifth chunk, as a cluster does whose workers come and go."""

    def __init__(self):
        self.submitted = 0

    def submit(self, fn, /, *args, **kwargs):
        self.submitted += 1
        future = Future()
        if self.submitted % 5 == 0:
            future.set_exception(ConnectionError("the worker went away"))
        else:
            future.set_result(fn(*args, **kwargs))
        return future


def test_chunks_that_are_lost_are_asked_for_again(expected):
    run = sampled(executor=Unreliable(), retries=3)
    assert np.array_equal(run.get_samples()["x"], expected)
    assert run.costs.lost["ConnectionError"] > 10


def test_an_executor_that_is_shut_down():
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.warns(EvaluationWarning, match="cannot schedule new futures after shutdown"):
        assert sampled(executor=pool).num_samples == 20


def test_loky_takes_functions_without_a_name(expected):
    loky = pytest.importorskip("joblib.externals.loky")
    pool = loky.get_reusable_executor(max_workers=2)
    run = sampled(lambda points: gaussian(points), executor=pool, chunk_size=16)
    np.testing.assert_allclose(run.get_samples()["x"], expected, rtol=1e-9)
    pool.shutdown(kill_workers=True)


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("dask.distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, processes=True
        ) as workers,
        distributed.Client(workers) as client,
    ):
        yield client


@pytest.mark.slow  # four processes import Dask
def test_dask_survives_the_loss_of_a_worker(cluster, expected):
    workers = set(cluster.run(os.getpid).values())
    assert len(workers) == 2
    killed = []

    def kill_one(progress):
        if progress.evaluations > 60 and not killed:
            killed.append(workers.pop())
            os.kill(killed[0], signal.SIGKILL)

    run = sampled(executor=cluster.get_executor(retries=2), progress=kill_one)
    assert killed
    assert np.array_equal(run.get_samples()["x"], expected)
