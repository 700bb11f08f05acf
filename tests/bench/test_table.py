"""Tables and ratios from made-up records."""

import csv
import math

import pytest

from qdesampler.bench.__main__ import main
from qdesampler.bench.measure import Record, Settings
from qdesampler.bench.table import header, ratios, to_csv, to_markdown, write


def record(model, kernel, seed, value, status="ok"):
    return Record(model, kernel, seed, per_1000_sampling=value, per_1000_total=value, status=status)


RECORDS = [
    record("a", "qde", 0, 8.0),
    record("a", "qde", 1, 4.0),
    record("a", "nuts", 0, 2.0),
    record("a", "nuts", 1, 4.0),
    record("b", "qde", 0, 9.0),
    record("b", "nuts", 0, 1.0, status="R-hat above 1.05"),
    record("c", "qde", 0, None, status="failed: ValueError: what | why"),
    record("c", "nuts", 0, 5.0),
]


def test_ratios_pair_model_and_seed():
    found = ratios(RECORDS, "per_1000_total")
    assert found.keys() == {"qde"}
    assert found["qde"].keys() == {"a", "b"}
    assert found["qde"]["a"] == pytest.approx(2.0)  # geometric mean of 4 and 1
    assert found["qde"]["b"] == pytest.approx(9.0)
    assert ratios(RECORDS, "per_1000_total", base="qde")["nuts"]["a"] == pytest.approx(0.5)


def test_a_seed_without_its_pair_does_not_count():
    lonely = [*RECORDS, record("a", "qde", 2, 1000.0)]
    assert ratios(lonely, "per_1000_total") == ratios(RECORDS, "per_1000_total")


def test_csv_keeps_every_record():
    lines = to_csv(RECORDS, {"date": "today"}).splitlines()
    assert lines[0] == "# date: today"
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    assert len(rows) == len(RECORDS)
    assert rows[0]["per_1000_total"] == "8"
    assert rows[6]["per_1000_total"] == ""
    assert rows[6]["status"] == "failed: ValueError: what | why"


def test_markdown_shows_failures_and_doubts():
    text = to_markdown(RECORDS, {"date": "today"})
    assert "failed: ValueError: what / why" in text  # no stray column
    assert "Failed runs: 1 of 8" in text
    assert "| kernel | a | b (!) | c (!) | geometric mean |" in text
    mean = math.sqrt(2.0 * 9.0)
    assert f"| qde | 2.00 | 9.00 | failed | {mean:.2f} (of 2 of 3 models) |" in text
    widths = {
        line.count("|") for line in text.splitlines() if line.startswith("| a ") or line.startswith("| c ")
    }
    assert len(widths) == 1


def test_header_names_settings_versions_and_machine():
    about = header(Settings(chains=3, warmup=5, draws=7))
    assert about["settings"].startswith("3 vectorized chains, 5 warm-up and 7 draws each, float")
    assert "jax " in about["versions"]
    assert "numpyro " in about["versions"]
    assert "cores" in about["machine"]


def test_write_by_suffix(tmp_path):
    write(tmp_path / "new" / "table.md", RECORDS, {})
    assert (tmp_path / "new" / "table.md").read_text().count("\n| a |") == 4
    with pytest.raises(ValueError, match=r"ends in .csv or .md"):
        write(tmp_path / "table.txt", RECORDS, {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kernels", "qde,slice"], "--kernels slice: expected some of qde"),
        (["--seeds", "0,-1"], "expected integers from 0"),
        (["--out", "table.xlsx"], "expected names that end in .csv or .md"),
        (["--draws", "3"], "--draws 3: expected at least 8"),
    ],
)
def test_bad_options_are_explained(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_an_unknown_model_is_explained(tmp_path, capsys):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "model.py").write_text("def model():\n    pass\n")
    assert main(["--models", "two", "--folder", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "there is no model at" in error
    assert "Built-in targets: gaussian-20" in error
