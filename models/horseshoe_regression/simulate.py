"""Make the data of `horseshoe_regression`: python models/horseshoe_regression/simulate.py."""

import json
from pathlib import Path

import numpy as np

generator = np.random.default_rng(20)
X = generator.normal(size=(60, 20))
X[:, 1] = 0.7 * X[:, 0] + np.sqrt(1 - 0.7**2) * X[:, 1]
beta = np.zeros(20)
beta[[0, 5, 11]] = 1.5, -1.0, 0.5
y = X @ beta + generator.normal(size=60)
text = json.dumps({"X": X.round(3).tolist(), "y": y.round(3).tolist()})
Path(__file__).with_name("data.json").write_text(text + "\n")
