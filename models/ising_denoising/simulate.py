"""Make the data of `ising_denoising`: python models/ising_denoising/simulate.py."""

import json
from pathlib import Path

import numpy as np

generator = np.random.default_rng(64)
row, column = np.indices((6, 6))
image = ((row - 2.5) ** 2 + (column - 2.5) ** 2 < 5).astype(int)
seen = np.where(generator.uniform(size=(6, 6)) < 0.25, 1 - image, image)
Path(__file__).with_name("data.json").write_text(json.dumps({"seen": seen.tolist()}) + "\n")
