"""The command, run small from beginning to end, and what it refuses."""

import csv
import subprocess

import pytest

from qdesampler.bench.examples import process, worker
from qdesampler.bench.examples.__main__ import main

pytestmark = pytest.mark.contract

TINY = ["--models", "line", "--chains", "1", "--warmup", "30", "--draws", "40"]


def rows_of(file):
    return list(csv.DictReader(line for line in file.read_text().splitlines() if not line.startswith("#")))


def in_this_process(arguments, timeout, cache):
    """What `run_cold` does, without a new process."""
    assert arguments[:2] == ["-m", "qdesampler.bench.examples.worker"]
    worker.main(arguments[2:])
    return subprocess.CompletedProcess(arguments, 0, "", "")


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(process, "run_cold", in_this_process)
    out, table = tmp_path / "runs.csv", tmp_path / "table.md"
    assert main([*TINY, "--kernels", "qde", "--out", f"{out},{table}", "--note", "made up"]) == 0
    (row,) = rows_of(out)
    assert (row["model"], row["kernel"], row["chains"], row["draws"]) == ("line", "qde", "1", "40")
    assert int(row["dim"]) == 3
    assert int(row["sampling_evals"]) >= 40
    assert float(row["ess"]) > 0
    assert float(row["cpu_s"]) > 0
    assert row["warned"]  # 40 draws are too few for the checks
    assert table.read_text() + "\n" == capsys.readouterr().out
    assert "- note: made up" in table.read_text()
    assert main([*TINY, "--kernels", "qde", "--add", str(out)]) == 0
    assert "| line | 1 |" in capsys.readouterr().out  # kept, and not run again


def test_a_process_that_breaks_or_does_not_end_is_a_failed_row(monkeypatch, capsys):
    def broken(arguments, timeout, cache):
        return subprocess.CompletedProcess(arguments, -11, "", "a line\nSegmentation fault\n")

    def endless(arguments, timeout, cache):
        raise subprocess.TimeoutExpired(arguments, timeout)

    for substitute, words in ((broken, "code -11: Segmentation fault"), (endless, "no end within 7 s")):
        monkeypatch.setattr(process, "run_cold", substitute)
        assert main([*TINY, "--kernels", "nuts", "--timeout", "7"]) == 0
        assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "lime"], "--models lime: expected some of"),
        (["--kernels", "qde,hmc"], "--kernels hmc: expected some of qde, nuts"),
        (["--chains", "0"], "--chains 0: expected integers from 1"),
        (["--seeds", "one"], "--seeds one: expected integers from 0"),
        (["--draws", "3"], "--draws 3: expected at least 8"),
        (["--timeout", "0"], "--timeout 0: expected seconds above 0"),
        (["--out", "table.txt"], "expected names that end in .csv or .md"),
        (["--add", "nowhere.csv"], "there is no such file"),
        (["--group", "small"], "invalid choice"),
    ],
)
def test_bad_arguments_say_what_was_expected(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_cold_processes_of_both_samplers(tmp_path):
    out = tmp_path / "runs.csv"
    assert main([*TINY, "--out", str(out)]) == 0
    rows = rows_of(out)
    assert [row["kernel"] for row in rows] == ["qde", "nuts"]
    assert all(float(row["cpu_s"]) > 1 for row in rows)  # the imports alone take as much


@pytest.mark.slow
def test_a_cold_process_is_ended(tmp_path):
    out = tmp_path / "runs.csv"
    assert main([*TINY, "--kernels", "nuts", "--timeout", "0.5", "--out", str(out)]) == 0
    (row,) = rows_of(out)
    assert row["status"] == "failed: no end within 0.5 s"
