"""Tables and ratios from made-up records."""

import csv
import math

import pytest

from qdesampler.bench.__main__ import main
from qdesampler.bench.harness.record import Record, Settings
from qdesampler.bench.harness.table import best_peer, header, savings, to_csv, to_markdown, write


def record(model, kernel, seed, evals, status="ok"):
    per_1000 = None if evals is None else 1000 / evals
    return Record(model, kernel, seed, evals_to_400=evals, per_1000_sampling=per_1000, status=status)


RECORDS = [
    record("a", "qde", 0, 2.0),
    record("a", "qde", 1, 4.0),
    record("a", "nuts", 0, 8.0),
    record("a", "nuts", 1, 4.0),
    record("a", "peer", 0, 6.0),
    record("b", "qde", 0, 1.0),
    record("b", "nuts", 0, 9.0),
    record("b", "peer", 0, 90.0, status="failed: R-hat 2 above 1.05"),
    record("c", "qde", 0, None, status="failed: ValueError: what | why"),
    record("c", "nuts", 0, 5.0),
]


def test_savings_pair_model_and_seed_and_leave_failures_out():
    assert savings(RECORDS, "qde", "nuts") == {"a": pytest.approx(2.0), "b": pytest.approx(9.0)}
    assert savings(RECORDS, "qde", "peer") == {"a": pytest.approx(3.0)}
    assert savings(RECORDS, "nuts", "qde")["a"] == pytest.approx(0.5)
    lonely = [*RECORDS, record("a", "qde", 2, 1e-3)]
    assert savings(lonely, "qde", "nuts") == savings(RECORDS, "qde", "nuts")


def test_the_best_peer_is_the_cheapest_that_did_not_fail():
    best = best_peer(RECORDS, ["nuts", "peer"])
    assert {(r.model, r.seed): r.evals_to_400 for r in best} == {
        ("a", 0): 6.0,
        ("a", 1): 4.0,
        ("b", 0): 9.0,
        ("c", 0): 5.0,
    }
    assert {r.kernel for r in best} == {"best peer"}
    alone = best_peer(RECORDS, ["peer"])
    assert [r.failed for r in alone] == [False, True]


def test_csv_keeps_every_record():
    lines = to_csv(RECORDS, {"date": "today"}).splitlines()
    assert lines[0] == "# date: today"
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    assert len(rows) == len(RECORDS)
    assert rows[0]["evals_to_400"] == "2"
    assert rows[8]["evals_to_400"] == ""
    assert rows[8]["status"] == "failed: ValueError: what | why"
    assert rows[7]["evals_to_400"] == "90"  # a failed run keeps its figures


def test_markdown_compares_with_each_peer_and_counts_failures():
    text = to_markdown(RECORDS, {"date": "today"})
    assert "failed: ValueError: what / why" in text  # no stray column
    assert "| peer | a | b | c | geometric mean | least | sampling alone | models |" in text
    mean = math.sqrt(2.0 * 9.0)
    assert f"| nuts | 2.00 | 9.00 | qde failed | {mean:.2f} | 2.00 | {mean:.2f} | 2 of 3 | 1 | 0 |" in text
    assert "| peer | 3.00 | peer failed | qde failed | 3.00 | 3.00 | 3.00 | 1 of 3 | 1 | 1 |" in text
    best = math.sqrt(3.0)  # on a: seeds 0 and 1, against 6 and 4
    assert f"| best peer | {best:.2f} | 9.00 | qde failed |" in text
    assert "Failed runs: 2 of 10\n- qde: 1 of 4 (c seed 0)\n- peer: 1 of 2 (b seed 0)" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("| a ")}
    assert len(widths) == 1


def test_all_qde_kernels_are_subjects_and_one_kernel_alone_has_no_comparison():
    more = [*RECORDS, record("a", "qde-isokinetic", 0, 3.0)]
    text = to_markdown(more, {})
    assert "fewer evaluations qde needs" in text
    assert "fewer evaluations qde-isokinetic needs" in text
    assert "fewer evaluations" not in to_markdown(RECORDS[:2], {})


def test_header_names_settings_versions_and_machine():
    about = header(Settings(chains=3, warmup=5, draws=7))
    assert about["settings"].startswith("3 vectorized chains, 5 warm-up and 7 draws each, float")
    assert "jax " in about["versions"]
    assert "numpyro " in about["versions"]
    assert "cores" in about["machine"]


def test_write_by_suffix(tmp_path):
    write(tmp_path / "new" / "table.md", RECORDS, {})
    assert (tmp_path / "new" / "table.md").read_text().count("\n| a |") == 5
    with pytest.raises(ValueError, match=r"ends in .csv or .md"):
        write(tmp_path / "table.txt", RECORDS, {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kernels", "qde,slice"], "--kernels slice: expected all, or some of qde"),
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
