"""Make the data of `icar_lattice`: python models/icar_lattice/simulate.py."""

import json
from pathlib import Path

import numpy as np

generator = np.random.default_rng(36)
row, column = np.indices((6, 6))
risk = 0.8 * np.sin(row / 2.0) + 0.25 * (column - 2.5) - 0.3
expected = np.round(generator.uniform(2, 12, (6, 6)), 1)
cases = generator.poisson(expected * np.exp(risk))
text = json.dumps({"expected": expected.tolist(), "cases": cases.tolist()})
Path(__file__).with_name("data.json").write_text(text + "\n")
