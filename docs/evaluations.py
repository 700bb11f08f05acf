"""The figure of the README, from the table in qdesampler/bench/results/fourteen.md.

python docs/evaluations.py [FILE]        writes docs/evaluations.png unless told otherwise
"""

import re
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

DOCS = Path(__file__).parent
TABLE = DOCS.parent / "qdesampler" / "bench" / "results" / "fourteen.md"
COLUMNS = {"QDE": 2, "nutpie, low-rank": 8, "NUTS, dense metric": 6, "NUTS": 4}  # cells of a row
MARKS = {"QDE": "o", "nutpie, low-rank": "^", "NUTS, dense metric": "D", "NUTS": "s"}


def evaluations() -> dict[str, dict[str, tuple[float, bool]]]:
    """Evaluations to 400 effective draws; whether the run failed, `{model: {kernel: (number, failed)}}`."""
    found = {}
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) > 8 and cells[1].isdigit():  # the dimension
            counts = {name: re.match(r"[\d,]+", cells[place]) for name, place in COLUMNS.items()}
            found[cells[0]] = {
                name: (float(n[0].replace(",", "")), "failed" in cells[COLUMNS[name]])
                for name, n in counts.items()
                if n
            }
    return found


def draw(path: Path) -> None:
    """One line a model, one mark a kernel, by what NUTS needs."""
    rows = sorted(evaluations().items(), key=lambda row: row[1]["NUTS"][0] / row[1]["QDE"][0])
    figure = Figure(figsize=(8.4, 4.8), layout="constrained")
    axes = figure.subplots()
    for place, (_, row) in enumerate(rows):
        counts = [number for number, _ in row.values()]
        axes.plot([min(counts), max(counts)], [place, place], color="0.85", lw=1, zorder=0)
    for i, (name, mark) in enumerate(MARKS.items()):
        size = 7 if i == 0 else 5
        style: dict[str, Any] = {"color": f"C{i}", "ls": "none", "marker": mark}
        for failed in (False, True):
            shown = [
                (row[name][0], k) for k, (_, row) in enumerate(rows) if row.get(name, (0, None))[1] is failed
            ]
            if shown:
                fill, label = ("none", None) if failed else ("full", name)
                axes.plot(*zip(*shown, strict=True), ms=size, fillstyle=fill, label=label, **style)
    axes.set_yticks(range(len(rows)), [model for model, _ in rows])
    axes.set(
        xscale="log",
        xlabel="evaluations until 400 effective draws, warm-up included (hollow: R-hat above 1.05)",
    )
    figure.legend(frameon=False, loc="outside upper center", ncols=4)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "evaluations.png")
