"""The command `python -m qdesampler.bench.densities`: a simulator sampled by QDE and by its peers.

python -m qdesampler.bench.densities --cells 16 --parameters 20 --methods qde,nuts,pymc,nutpie
python -m qdesampler.bench.densities --cells 128 --parameters 10 --methods qde --workers 1,2
python -m qdesampler.bench.densities --wait 50 --methods qde --workers 1,2 --ess 100

The density is the inverse problem of `qdesampler/bench/densities/groundwater.py`, whose grid (`--cells`) sets
how long an evaluation takes: 128 some 50 ms. With `--wait` it waits besides, as for a simulator on another
machine. Every method calls the same function of NumPy: QDE by `qdesampler.sample`, NumPyro's NUTS by
`jax.pure_callback`, PyMC's by an operation of PyTensor, nutpie directly. The main figure is a count, which no
other load of the machine changes: the evaluations until the worst parameter has so many effective draws,
`warm-up + draws * wanted / reached`. Seconds are of the runs as they were made; CPU seconds include workers.
Below the table is what workers can gain at most, by counts as well: the evaluations over the rounds in which
so many workers make them, `sum ceil(batch / workers)`.
"""

import argparse
import sys
from collections.abc import Sequence
from time import process_time

import numpy as np

from qdesampler.bench.densities.arguments import some_of
from qdesampler.bench.densities.groundwater import AMPLITUDE, NOISE, Groundwater
from qdesampler.bench.densities.methods import PEERS, Row, gain_of_workers, measure_peer, measure_qde

__all__ = ["main"]

WORKERS = (2, 8, 32)  # whose gain is shown
METHODS = ("qde", *PEERS)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m qdesampler.bench.densities", description=__doc__)
    parser.add_argument("--cells", type=int, default=16, help="cells along each side of the square")
    parser.add_argument("--parameters", type=int, default=20, help="parameters of the ground")
    parser.add_argument("--noise", type=float, default=NOISE, help="standard deviation of a measured head")
    parser.add_argument("--amplitude", type=float, default=AMPLITUDE, help="of the log conductivity")
    parser.add_argument("--wait", type=float, default=0.0, help="milliseconds that an evaluation waits")
    parser.add_argument("--methods", type=some_of(METHODS), default=["qde", "nuts"], help=", ".join(METHODS))
    parser.add_argument("--workers", type=_numbers, default=[0], help="processes of QDE; 0: this one")
    parser.add_argument("--ess", type=float, default=400.0, help="effective draws of the worst parameter")
    parser.add_argument("--peer-warmup", type=int, default=500, help="iterations of each chain of a peer")
    parser.add_argument("--peer-draws", type=int, default=250, help="draws of each chain of a peer")
    given = parser.parse_args(arguments)
    target = Groundwater(given.cells, given.parameters, given.noise, given.amplitude, given.wait / 1000)
    points = np.random.default_rng(0).standard_normal((6, target.dim))
    target(points[:1])
    began = process_time()
    target(points[1:])
    each = (process_time() - began) / 5 + given.wait / 1000
    print(
        f"Groundwater: {given.parameters} parameters, noise {given.noise:g}, amplitude {given.amplitude:g}, "
        f"{given.cells} x {given.cells} cells, {1000 * each:.1f} ms of CPU time or waiting an "
        f"evaluation; evaluations until {given.ess:g} effective draws.\n"
    )
    print("| method | warm-up | until then | times the first | ESS reached | R-hat | seconds | CPU s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    rows: list[Row] = []
    for method in given.methods:
        if method == "qde":
            made = (measure_qde(target, given.ess, workers) for workers in given.workers)
        else:
            made = iter([measure_peer(method, target, given.peer_warmup, given.peer_draws)])
        for row in made:
            rows.append(row)
            total = row.until(given.ess)
            print(
                f"| {row.method} | {row.of_warmup:,} | {total:,.0f} | {total / rows[0].until(given.ess):.1f} "
                f"| {row.ess:.0f} | {row.rhat:.3f} | {row.seconds:.0f} | {row.cpu:.0f} |",
                flush=True,
            )
    for row in rows:
        if row.batches:
            gains = ", ".join(f"{gain_of_workers(row.batches, n):.2f} for {n}" for n in WORKERS)
            print(f"\nMost that workers can gain, by counts: {gains} ({len(row.batches)} batches).")
    if len(rows) > 1:
        worst = max(
            float(np.max(np.abs(row.means - rows[0].means) / np.hypot(row.errors, rows[0].errors)))
            for row in rows[1:]
        )
        print(f"\nMeans differ from those of the first row by {worst:.1f} standard errors at most.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
