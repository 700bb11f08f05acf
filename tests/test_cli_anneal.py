"""`qdesampler anneal`: energies and log Z of a file against dimod's enumeration; files that are no models."""

import json

import dimod
import numpy as np
import pytest
from dimod.serialization import coo
from scipy.special import logsumexp

from qdesampler.cli.main import main as cli


def model():
    bits = [dimod.Binary(name) for name in "abcd"]
    return sum(v * x for v, x in zip((-1.0, -2.5, 0.5, -2.0), bits, strict=True)) + 1e6 * (sum(bits) - 1) ** 2


def test_a_model_in_json(tmp_path, capsys):
    bqm = model()
    (tmp_path / "model.json").write_text(json.dumps(bqm.to_serializable()))
    arguments = ["anneal", str(tmp_path / "model.json"), "--reads", "400", "--sweeps", "100"]
    out = [*("--out", str(tmp_path / "reads.png")), *("--json", str(tmp_path / "reads.json"))]
    assert cli([*arguments, *out]) == 0
    printed = capsys.readouterr().out
    assert "lowest energy -2.5\n" in printed
    assert "a=0 b=1 c=0 d=0" in printed
    exact = logsumexp(-dimod.ExactSolver().sample(bqm).record.energy)
    value, error = (float(x) for x in printed.split("log Z at beta 1: ")[1].split("\n")[0].split(" +- "))
    assert abs(value - exact) < 4 * error < 1
    reads = json.loads((tmp_path / "reads.json").read_text())
    energies = bqm.energies((np.array(reads["states"]), reads["labels"]))
    np.testing.assert_allclose(reads["energies"], energies, atol=1e-9)
    assert (tmp_path / "reads.png").stat().st_size > 5000


def test_a_model_in_coo(tmp_path, capsys):
    bqm = dimod.BinaryQuadraticModel({0: 1.0, 1: 0.5}, {(0, 1): -2.0}, 0.0, "SPIN")
    (tmp_path / "model.coo").write_text(coo.dumps(bqm, vartype_header=True))
    assert cli(["anneal", str(tmp_path / "model.coo"), "--reads", "50", "--sweeps", "20"]) == 0
    assert "lowest energy -3.5\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("model.lp", "Minimize", "cqm_to_bqm"),
        ("model.json", '{"a": 1}', "to_serializable"),
        ("model.json", "{", "to_serializable"),
        ("model.coo", "some words", "COO"),
        (None, "", "No such file"),
    ],
)
def test_other_files_are_refused(tmp_path, capsys, name, text, message):
    if name:
        (tmp_path / name).write_text(text)
    assert cli(["anneal", str(tmp_path / (name or "missing.json"))]) == 2
    assert message in capsys.readouterr().err
