"""Files that are whole or absent, folders that are as before when something fails."""

import os

import pytest

from qdesampler.diagnostics import ResultFolder, write_atomically


def test_a_file_is_replaced_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_atomically(path, b"first")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert path.stat().st_mode == plain.stat().st_mode

    def broken(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"third")
    assert path.read_bytes() == b"second"
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "plain"]


def test_a_file_needs_its_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "none" / "a.txt", b"")


def test_nothing_appears_before_publish(tmp_path):
    with ResultFolder(tmp_path / "run") as folder:
        (folder.staging / "sub").mkdir()
        (folder.staging / "sub" / "b").write_text("b")
        (folder.staging / "a").write_text("a")
        assert not (tmp_path / "run" / "a").exists()
        assert folder.publish() == [tmp_path / "run" / "a", tmp_path / "run" / "sub" / "b"]
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["a", "sub"]


def fail_halfway(folder):
    with folder:
        (folder.staging / "a").write_text("new")
        raise RuntimeError("halfway")


def test_a_failure_leaves_no_folder(tmp_path):
    with pytest.raises(RuntimeError, match="halfway"):
        fail_halfway(ResultFolder(tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []


def test_overwriting_replaces_its_own_and_keeps_the_rest(tmp_path):
    for name in ("a", "stale", "mine"):
        (tmp_path / name).write_text("old")
    with pytest.raises(FileExistsError, match="is not empty"):
        ResultFolder(tmp_path)
    with pytest.raises(RuntimeError, match="halfway"):
        fail_halfway(ResultFolder(tmp_path, overwrite=True, stale=("a", "stale")))
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == dict.fromkeys(("a", "stale", "mine"), "old")
    with ResultFolder(tmp_path, overwrite=True, stale=("a", "stale")) as folder:
        (folder.staging / "a").write_text("new")
        folder.publish()
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a": "new", "mine": "old"}


def test_a_file_is_no_folder(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="is a file; expected a folder"):
            ResultFolder(path, overwrite=overwrite)
    with pytest.raises(OSError):
        ResultFolder(path / "below")
