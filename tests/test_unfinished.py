"""Temporary names: those of the living stay, those of the dead go, and nobody else's files are touched."""

import os
import subprocess
import sys

import pytest

from qdesampler.diagnostics import ResultFolder
from qdesampler.driver.checkpoint import CheckpointError, write_arrays
from qdesampler.driver.files import holds_run
from qdesampler.unfinished import UnfinishedFolder, clear_unfinished, is_unfinished, replacing

DEAD = """
import os, signal, sys
from pathlib import Path
from qdesampler.unfinished import UnfinishedFolder, replacing
folder = Path(sys.argv[1])
kept = UnfinishedFolder(folder, inside=True)
(kept.path / "half").write_text("half")
with replacing(folder / "a") as file:
    file.write(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def unfinished(folder):
    return sorted(path for path in folder.iterdir() if is_unfinished(path))


def test_what_a_killed_process_left_is_cleared(tmp_path):
    (tmp_path / "a").write_text("before")
    (tmp_path / ".hidden").write_text("mine")
    subprocess.run([sys.executable, "-c", DEAD, tmp_path], check=False)
    assert len(unfinished(tmp_path)) == 2
    assert (tmp_path / "a").read_text() == "before"
    clear_unfinished(tmp_path, "a")
    assert [path.is_dir() for path in unfinished(tmp_path)] == [True]  # of another name
    clear_unfinished(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"a", ".hidden"}


def test_what_a_living_process_writes_stays(tmp_path):
    out = tmp_path / "out"
    with ResultFolder(out) as folder, replacing(out / "file") as file:
        clear_unfinished(out)
        (folder.staging / "b").write_text("b")
        file.write(b"whole")
        with pytest.raises(FileExistsError, match="being written by another process"):
            ResultFolder(out, overwrite=True)
        folder.publish()
    assert {path.name for path in out.iterdir()} == {"b", "file"}


def test_a_folder_that_is_renamed_takes_no_lock_along(tmp_path):
    with UnfinishedFolder(tmp_path / "store") as folder:
        (folder.path / "x").write_text("x")
        folder.rename(tmp_path / "store")
    assert os.listdir(tmp_path) == ["store"]
    assert os.listdir(tmp_path / "store") == ["x"]


def test_an_exception_leaves_the_file_as_it_was(tmp_path):
    (tmp_path / "a").write_text("before")
    with pytest.raises(TypeError), replacing(tmp_path / "a") as file:
        file.writelines([b"half", "text"])
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "before"


def test_a_folder_holds_a_run_if_it_holds_a_state(tmp_path):
    assert not holds_run(tmp_path / "none")
    (tmp_path / ".unfinished-state-000000000000.qde.ab").write_text("")
    (tmp_path / "draws-000000000000.qde").write_text("")
    assert not holds_run(tmp_path)
    (tmp_path / "process-1").mkdir()
    write_arrays(tmp_path / "process-1" / "state-000000000000.qde", {}, {})
    assert holds_run(tmp_path)
    with pytest.raises(CheckpointError, match="could not be written"):
        write_arrays(tmp_path / "nowhere" / "state-000000000000.qde", {}, {})
