"""Make the data of `label_switching`: python models/label_switching/simulate.py."""

import json
from pathlib import Path

import numpy as np

generator = np.random.default_rng(20261124)
component = generator.integers(0, 2, 60)
y = np.where(component == 0, -2.0, 2.0) + generator.normal(size=60)
Path(__file__).with_name("data.json").write_text(json.dumps({"y": np.round(y, 3).tolist()}) + "\n")
