"""`qdesampler anneal FILE`: states, energies and log Z of a binary quadratic model, and a picture."""

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qdesampler.backends import (
    PrecisionWarning,
    Samples,
    SimulatedAnnealing,
    from_bqm,
    log_partition_estimate,
    read_bqm,
)
from qdesampler.cli.common import (
    OK,
    InputError,
    Progress,
    add_number,
    at_least,
    check_output,
    one_line,
    positive,
    print_warnings,
    seed,
)
from qdesampler.cli.picture import write_picture
from qdesampler.diagnostics import plot_reads, write_atomically

__all__ = ["add_anneal"]

_SHOWN = 5  # states of lowest energy that are printed
_LONGEST = 64  # variables up to which states are printed whole

_EPILOG = """examples:
  qdesampler anneal model.json --reads 1000 --beta 2
  qdesampler anneal model.coo --out reads.png --json reads.json

FILE: the JSON of dimod (json.dump(bqm.to_serializable(), file)), or its COO text
(dimod.serialization.coo.dump).
"""


def add_anneal(commands: "argparse._SubParsersAction[Any]") -> argparse.ArgumentParser:
    """Add the command to the parser."""
    command = commands.add_parser(
        "anneal",
        help="states of low energy, and log Z, of a binary quadratic model in a file",
        description="Anneal a binary quadratic model with weights: the lowest states, log Z at the inverse "
        "temperature with its standard error, and how many reads are worth something. Needs the extra dimod.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(action=_anneal)
    command.add_argument("file", metavar="FILE", type=Path, help="a model of dimod: .json or .coo")
    add_number(command, "--reads", at_least(2), 1000)
    add_number(command, "--sweeps", at_least(1), 300)
    add_number(command, "--beta", positive, 1.0, metavar="B")
    add_number(command, "--seed", seed, 0)
    command.add_argument("--out", metavar="FILE", type=Path, help="write a picture of the energies (.png)")
    command.add_argument("--json", metavar="FILE", type=Path, help="write all reads and weights (.json)")
    return command


def _anneal(arguments: argparse.Namespace) -> int:
    check_output("--out", arguments.out, ".png")
    check_output("--json", arguments.json, ".json")
    try:
        bqm = read_bqm(arguments.file)
        problem, labels = from_bqm(bqm)
    except (ImportError, OSError, TypeError, ValueError) as error:
        raise InputError(one_line(error)) from error
    with Progress() as progress, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PrecisionWarning)
        progress("annealing")
        samples = SimulatedAnnealing(arguments.sweeps).sample(
            problem, key=jax.random.key(arguments.seed), num_reads=arguments.reads, beta=arguments.beta
        )
    print_warnings(caught)
    print(f"{problem.num_variables} variables, {bqm.num_interactions} couplings, {bqm.vartype.name.lower()}")
    print(f"lowest energy {float(np.min(samples.energies)):.10g}")
    value, error = log_partition_estimate(samples)
    weights = np.exp(np.asarray(samples.log_weight, float) - float(np.max(np.asarray(samples.log_weight))))
    effective = weights.sum() ** 2 / (weights**2).sum()
    print(f"log Z at beta {arguments.beta:g}: {float(value):.10g} +- {float(error):.2g}")
    print(f"effective reads {effective:.0f} of {arguments.reads}")
    _print_states(_values(samples, bqm.vartype.name), np.asarray(samples.energies), labels)
    if arguments.json is not None:
        write_atomically(arguments.json, _as_json(samples, labels, bqm.vartype.name).encode())
        print(f"Written to {arguments.json}")
    write_picture(
        arguments.out, lambda: plot_reads(problem, samples, beta=arguments.beta, backend="matplotlib")
    )
    return OK


def _values(samples: Samples, vartype: str) -> np.ndarray:
    """States in the model's own values, 0 and 1 or -1 and +1."""
    states = np.asarray(samples.states)
    return (states + 1) // 2 if vartype == "BINARY" else states


def _print_states(rows: np.ndarray, energies: np.ndarray, labels: tuple[Any, ...]) -> None:
    """The lowest states, each with how often it was read."""
    states, first, counts = np.unique(rows, axis=0, return_index=True, return_counts=True)
    print(f"{len(states)} different states; the lowest:")
    for k in np.argsort(energies[first], kind="stable")[:_SHOWN]:
        pairs = [f"{label}={value}" for label, value in zip(labels, states[k], strict=True)]
        more = f" ... ({len(pairs)} variables)" if len(pairs) > _LONGEST else ""
        print(f"  {energies[first[k]]:.10g}  {counts[k]} reads  {' '.join(pairs[:_LONGEST])}{more}")


def _as_json(samples: Samples, labels: tuple[Any, ...], vartype: str) -> str:
    """All reads; labels that JSON cannot hold are written as text."""
    return json.dumps(
        {
            "labels": [label if isinstance(label, str | int) else str(label) for label in labels],
            "vartype": vartype,
            "states": _values(samples, vartype).tolist(),
            "energies": np.asarray(samples.energies).tolist(),
            "log_weights": np.asarray(samples.log_weight, float).tolist(),
            "log_scale": float(np.asarray(samples.log_scale)),
        }
    )
