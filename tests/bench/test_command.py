"""The two commands, run small from beginning to end."""

import csv
from pathlib import Path

import pytest

from qdesampler.bench.__main__ import main
from qdesampler.bench.driver import seconds
from qdesampler.bench.harness.record import Settings

MODELS = Path(__file__).parents[2] / "models"


def test_the_benchmark(tmp_path, capsys):
    out = tmp_path / "table.csv"
    sizes = ["--chains", "2", "--warmup", "40", "--draws", "40"]
    command = [
        "--models",
        "banana",
        "--kernels",
        "qde,nuts",
        "--seeds",
        "7",
        "--out",
        str(out),
        *sizes,
    ]
    assert main(command) == 0
    rows = list(csv.DictReader(line for line in out.read_text().splitlines() if not line.startswith("#")))
    assert [row["kernel"] for row in rows] == ["qde", "nuts"]
    assert all(int(row["warmup_evals"]) >= 2 * 40 + 2 for row in rows)
    text = capsys.readouterr().out
    assert "evaluations qde needs until ESS 400" in text
    assert "of 2" in text.split("Failed runs:")[1].splitlines()[0]


@pytest.mark.slow
def test_seconds_of_whole_processes(capsys):
    sizes = ["--chains", "2", "--warmup", "50", "--draws", "50", "--repeats", "1"]
    assert seconds.main([str(MODELS / "eight_schools"), *sizes]) == 0
    text = capsys.readouterr().out
    assert all(f"| {name} |" in text for name in ("nuts", "qde", "qde, our driver"))
    assert "of NUTS in geometric mean" in text


def test_a_failing_process_is_an_error_not_a_time(tmp_path):
    (tmp_path / "model.py").write_text("raise OSError('the disk is full')\n")
    with pytest.raises(RuntimeError, match=r"nuts process failed(.|\n)*the disk is full"):
        seconds.measure_process("nuts", tmp_path, 0, Settings(1, 1, 1))
