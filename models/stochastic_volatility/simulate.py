"""Make the data of `stochastic_volatility`: python models/stochastic_volatility/simulate.py."""

import json
from pathlib import Path

import numpy as np

generator = np.random.default_rng(200)
mu, phi, sigma, days = -1.0, 0.95, 0.25, 200
h = np.empty(days)
h[0] = mu + sigma / np.sqrt(1 - phi**2) * generator.normal()
for t in range(1, days):
    h[t] = mu + phi * (h[t - 1] - mu) + sigma * generator.normal()
y = np.exp(h / 2) * generator.normal(size=days)
text = json.dumps({"y": y.round(4).tolist()})
Path(__file__).with_name("data.json").write_text(text + "\n")
