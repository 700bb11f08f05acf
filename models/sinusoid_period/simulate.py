"""Make the data of `sinusoid_period`: python models/sinusoid_period/simulate.py."""

import json
from pathlib import Path

import numpy as np

generator = np.random.default_rng(7)
time = np.round(np.arange(12) + generator.uniform(-0.12, 0.12, 12), 3)
angle = 2 * np.pi * 0.31 * time
y = np.round(0.8 * np.cos(angle) - 0.5 * np.sin(angle) + 0.6 * generator.normal(size=12), 3)
text = json.dumps({"time": time.tolist(), "y": y.tolist()})
Path(__file__).with_name("data.json").write_text(text + "\n")
