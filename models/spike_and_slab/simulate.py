"""Make the data of `spike_and_slab`: python models/spike_and_slab/simulate.py."""

import json
from pathlib import Path

import numpy as np

generator = np.random.default_rng(12)
X = generator.normal(size=(40, 12))
X[:, 1] = 0.9 * X[:, 0] + 0.45 * X[:, 1]
X[:, 5] = 0.8 * X[:, 4] + 0.6 * X[:, 5]
X = np.round(X, 3)
y = np.round(0.8 * X[:, 0] + 0.5 * X[:, 4] - 0.4 * X[:, 8] + generator.normal(size=40), 3)
Path(__file__).with_name("data.json").write_text(json.dumps({"X": X.tolist(), "y": y.tolist()}) + "\n")
