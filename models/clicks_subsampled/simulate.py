"""Make the data of `clicks_subsampled`: python models/clicks_subsampled/simulate.py."""

import json
from pathlib import Path

import numpy as np

generator = np.random.default_rng(50_000)
ad, mobile, weekend = (a.ravel() for a in np.indices((20, 2, 2)))
shown = generator.multinomial(50_000, generator.dirichlet(np.full(80, 3.0)))
effect = -2.0 + 0.5 * generator.normal(size=20)
clicked = generator.binomial(shown, 1 / (1 + np.exp(-(effect[ad] + 0.4 * mobile - 0.2 * weekend))))
names = ("ad", "mobile", "weekend", "shown", "clicked")
text = json.dumps({k: v.tolist() for k, v in zip(names, (ad, mobile, weekend, shown, clicked), strict=True)})
Path(__file__).with_name("data.json").write_text(text + "\n")
