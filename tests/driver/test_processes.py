"""Chains over the devices of two processes: the same draws as one process's, one of them killed, resumed.

The processes are of this machine and talk over 127.0.0.1.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils
from jax.sharding import Mesh, PartitionSpec

from qdesampler import MCMC, QDE
from qdesampler.driver.processes import Processes, local_part, spread, whole_leaf

SCRIPT = Path(__file__).with_name("distributed_run.py")


def start(folder, processes, kernel, act, draws, x64="0"):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        subprocess.Popen(
            [sys.executable, SCRIPT, str(index), str(processes), str(port), kernel, act, str(draws), folder],
            stdout=subprocess.PIPE,
            stderr=(folder / f"errors-{index}").open("w"),
            text=True,
            env={**os.environ, "JAX_ENABLE_X64": x64},
        )
        for index in range(processes)
    ]


def finished(running, seconds=400):
    told = [process.communicate(timeout=seconds)[0] for process in running]
    assert [process.returncode for process in running] == [0] * len(running)
    return [text.splitlines()[-1] for text in told]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "act", "draws"),
    [
        ("NUTS", "run", 100),
        ("QDE", "run", 100),
        ("QDE", "until", 5000),
        ("NUTS", "batches", 100),
        ("QDE", "batches", 100),
    ],
)
def test_two_processes_draw_what_one_draws(tmp_path, kernel, act, draws):
    two = finished(start(tmp_path, 2, kernel, act, draws))
    one = finished(start(tmp_path, 1, kernel, act, draws))
    assert two[0] == two[1]
    assert two[0].split(",")[:2] == one[0].split(",")[:2]  # ended alike, evaluations
    assert two[0].startswith("ended by until" if act == "until" else "ended by num_samples")
    of_two, of_one = (np.load(tmp_path / f"{kernel}-{act}-{n}.npy") for n in (2, 1))
    if kernel == "NUTS":  # chains know nothing of each other
        assert np.array_equal(of_two, of_one)
    else:  # sums over chains are taken in another order
        np.testing.assert_allclose(of_two, of_one, atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["NUTS", "QDE", "AnnealedQDE"])
def test_two_processes_of_two_devices_draw_what_one_device_draws(tmp_path, kernel):
    """In double precision: in single, what four chains at once round otherwise than one parts NUTS early."""
    two = finished(start(tmp_path, 2, kernel, "run", 100, "1"))
    one = finished(start(tmp_path, 1, kernel, "plain", 100, "1"))
    assert two == one * 2  # ended alike, the same number of evaluations
    of_two, of_one = (np.load(tmp_path / f"{kernel}-{name}.npy") for name in ("run-2", "plain-1"))
    assert np.unique(of_two[:, -1]).size == 4
    np.testing.assert_allclose(of_two, of_one, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "batches"), [("QDE", "batches-"), ("AnnealedQDE", "")])
def test_a_finished_run_of_two_processes_is_drawn_further(tmp_path, kernel, batches):
    for act, draws in (("checkpointed", 40), ("resume", 100), ("run", 100)):
        finished(start(tmp_path, 2, kernel, batches + act, draws))
    resumed, whole = (np.load(tmp_path / f"{kernel}-{batches}{act}-2.npy") for act in ("resume", "run"))
    assert whole.shape == (8 if batches else 4, 100)
    assert np.array_equal(resumed, whole)


@pytest.mark.slow
def test_a_killed_process_stops_the_other_and_the_run_can_be_resumed(tmp_path):
    finished(start(tmp_path, 2, "QDE", "run", 2000))
    first, second = start(tmp_path, 2, "QDE", "checkpointed", 2000)
    told = "0"
    while not told[0].isdigit() or int(told.split()[0]) < 400:  # Gloo has its own lines
        told = second.stdout.readline()
    second.send_signal(signal.SIGKILL)
    first.communicate(timeout=120)
    assert first.returncode != 0
    errors = (tmp_path / "errors-0").read_text()
    told = "LostProcessError: Process 0 of 2 stops: another one ended or cannot be reached."
    waited = "process 0 of 2 has waited 15 s for a chunk. If another one ended, JAX ends this one too"
    assert (
        told in errors or waited in errors
    )  # the first where the connection breaks, the second where it hangs
    assert "Start all again and `resume`: iteration" in errors
    assert {path.name for path in (tmp_path / "QDE.ckpt").iterdir()} == {"process-0", "process-1"}
    finished(start(tmp_path, 2, "QDE", "resume", 2000))
    resumed, whole = (np.load(tmp_path / f"QDE-{act}-2.npy") for act in ("resume", "run"))
    assert whole.shape == (4, 2000)
    assert np.array_equal(resumed, whole)


def test_one_process_is_all_of_them():
    mesh = Mesh(np.array(jax.devices()[:1]), ("chains",))
    for processes in (Processes(None), Processes(mesh)):
        assert (processes.count, processes.index) == (1, 0)
        assert processes.agreed(("", "max_time"), "max_time", 7) == ("max_time", 7)
        assert processes.common([150, 100]) == [150, 100]
        assert processes.own_folder(Path("run.ckpt")) == Path("run.ckpt")
        with pytest.raises(jax.errors.JaxRuntimeError), processes.watched(lambda: ""):
            raise jax.errors.JaxRuntimeError("INTERNAL")
    keys = jax.random.split(jax.random.key(0), 3)
    placed = spread(keys, mesh, PartitionSpec("chains"))
    assert np.array_equal(jax.random.key_data(whole_leaf(placed)), jax.random.key_data(keys))
    assert np.array_equal(local_part(spread(jnp.arange(3.0), mesh, PartitionSpec())), [0, 1, 2])


def test_patience_ends_with_a_word(capsys):
    processes = Processes(None)
    with processes.patience(lambda: "Iteration 50 is kept.", 0.01):
        time.sleep(0.1)
    processes.count = 2
    with processes.patience(lambda: "Iteration 50 is kept.", 60.0):
        pass
    assert capsys.readouterr().err == ""
    with processes.patience(lambda: "Iteration 50 is kept.", 0.01):
        time.sleep(0.3)
    told = capsys.readouterr().err
    assert "process 0 of 2 has waited 0.01 s" in told
    assert "Iteration 50 is kept." in told


class Device:
    def __init__(self, process_index):
        self.process_index = process_index


def test_devices_of_some_processes_only():
    class Some:
        devices = np.array([Device(0), Device(0), Device(1)])

    with pytest.raises(ValueError, match=r"belong to the processes \[0, 0, 1\], of 1; expected devices of"):
        Processes(Some())


def test_a_run_of_one_process_is_gathered_already():
    mcmc = MCMC(QDE(potential_fn=lambda z: z @ z), num_warmup=1, num_samples=1)
    assert mcmc.gathered() is mcmc


def test_chains_of_batches_are_put_in_the_order_of_their_numbers(monkeypatch):
    processes = Processes(None, batches=3)
    processes.count = 2
    assert [processes.own(slice(first, first + 4)) for first in (0, 4, 8)] == [
        slice(0, 2),
        slice(2, 4),
        slice(4, 6),
    ]
    told = np.array([0, 1, 4, 5, 8, 9, 2, 3, 6, 7, 10, 11])[:, None]  # of the first process, of the second
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda leaf, tiled: told)
    assert processes.gathered(told[:6])[:, 0].tolist() == list(range(12))


def test_processes_that_start_otherwise_are_told(monkeypatch):
    processes = Processes(None)
    processes.check_same(jnp.arange(3), "The start")
    processes.count = 2
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda own: np.array([own, own]))
    processes.check_same(jnp.arange(3), "The start")
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda own: np.array([own, own + 1]))
    with pytest.raises(ValueError, match="The start differs between the processes: expected the same"):
        processes.check_same(jnp.arange(3), "The start")
