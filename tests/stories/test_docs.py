"""The documentation is true: its code runs, its commands exist, its links lead somewhere, it builds."""

import importlib
import inspect
import json
import pickle
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

import qdesampler
from qdesampler.cli.main import main
from qdesampler.cli.parser import parser
from qdesampler.infer import load_model

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
LOCAL_TOOLS = ("git", "cd", "pip", ".")  # not ours to check


def blocks(text: str, language: str) -> list[str]:
    """The bodies of the fenced blocks in `language`."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def wrong_commands(text: str, targets: set[str]) -> list[str]:
    """Commands of the shell blocks that nobody would understand."""
    wrong = []
    for line in (line for block in blocks(text, "sh") for line in block.splitlines()):
        for command in re.split(r"&&|;", line.split("#")[0]):
            words = shlex.split(command)
            if not words or words[0] in LOCAL_TOOLS:
                continue
            if words[0] == "make":
                known = set(words[1:]) <= targets
            elif words[:3] == ["python", "-m", "venv"]:
                known = True
            elif words[:2] == ["python", "-m"]:
                known = (ROOT / words[2].replace(".", "/")).is_dir() or (
                    ROOT / f"{words[2].replace('.', '/')}.py"
                ).is_file()
            elif words[0] == "python":
                known = (ROOT / words[1]).is_file()
            elif words[0] == "qdesampler":
                try:
                    parser().parse_args(words[1:])
                    known = True
                except SystemExit:
                    known = False
            else:
                known = False
            if not known:
                wrong.append(command.strip())
    return wrong


def broken_links(path: Path) -> list[str]:
    """Files that a page links to, or names in backquotes, which are not there."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = [
        path.parent / name for name in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if not name.startswith("http")
    ]
    quoted = [
        ROOT / name for name in re.findall(r"`((?:qdesampler|models|examples|tests)/[\w./-]*[\w/])`", text)
    ]
    return [str(target) for target in links + quoted if not target.exists()]


def modules_not_runnable(text: str) -> list[str]:
    """Modules that a text runs by `python -m qdesampler...` and that are no commands."""
    wrong = []
    for module in sorted(set(re.findall(r"python\s+-m\s+(qdesampler(?:\.\w+)*)", text))):
        path = ROOT / module.replace(".", "/")
        command = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        if not command.is_file() or '__name__ == "__main__"' not in command.read_text(encoding="utf-8"):
            wrong.append(module)
    return wrong


TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


DRAWN = {"gallery"}  # a test of its own runs it
LONG = {"first_ten_minutes"}
WITH_CODE = [path for path in PAGES if "```python" in path.read_text() and path.stem not in DRAWN]


@pytest.mark.parametrize(
    "page",
    [pytest.param(path, marks=[pytest.mark.slow] * (path.stem in LONG)) for path in WITH_CODE],
    ids=lambda p: p.stem,
)
def test_the_code_runs_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict = {"__name__": page.stem}
    for i, code in enumerate(blocks(page.read_text(encoding="utf-8"), "python")):
        exec(compile(code, f"{page.name}, block {i + 1}", "exec"), namespace)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda p: p.stem)
def test_commands_and_links_exist(page):
    assert wrong_commands(page.read_text(encoding="utf-8"), TARGETS) == []
    assert broken_links(page) == []


def test_measurements_that_are_named_anywhere_can_be_run():
    texts = [ROOT / "Makefile", *ROOT.glob("*.md"), *PAGES]
    texts += [
        path for folder in ("qdesampler", "models", "examples") for path in (ROOT / folder).rglob("*.md")
    ]
    texts += (ROOT / "qdesampler").rglob("*.py")
    found = {path.name: modules_not_runnable(path.read_text(encoding="utf-8")) for path in texts}
    assert {name: modules for name, modules in found.items() if modules} == {}


def test_the_checkers_see_what_they_should(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```sh\nmake nonsense && make test\nqdesampler fly\nrm x\n```\n[a](b.md) `models/none` [w](https://x.y)"
    )
    assert wrong_commands(page.read_text(), {"test"}) == ["make nonsense", "qdesampler fly", "rm x"]
    assert broken_links(page) == [str(tmp_path / "b.md"), str(ROOT / "models/none")]
    assert modules_not_runnable("python -m qdesampler.bench, python -m qdesampler.cli") == ["qdesampler.cli"]
    assert modules_not_runnable("python -m\n  qdesampler.bench.startup") == ["qdesampler.bench.startup"]


def test_the_model_to_copy_is_a_model_with_a_true_reference(tmp_path):
    text = (DOCS / "contribute.md").read_text(encoding="utf-8")
    folder = tmp_path / "coins"
    folder.mkdir()
    (folder / "model.py").write_text(blocks(text, "python")[-1])
    data, reference = blocks(text, "json")
    (folder / "data.json").write_text(data)
    (folder / "reference.json").write_text(reference)
    case = load_model(folder)
    assert case.data == {"tosses": 10, "heads": 7}
    x = np.random.default_rng(0).beta(9, 5, 400_000)
    known = json.loads(reference)["parameters"]["rate"]
    for name, value in (
        ("mean", x.mean()),
        ("sd", x.std()),
        ("mean_sq", (x**2).mean()),
        ("sd_sq", (x**2).std()),
    ):
        assert known[name] == pytest.approx(value, abs=1.5e-3), name


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The folder of the page for newcomers, made as it says; the text of the page."""
    text = (DOCS / "first_ten_minutes.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "model.py").write_text(blocks(text, "python")[0])
    (folder / "data.json").write_text(*blocks(text, "json"))
    return text


def test_the_model_of_the_first_ten_minutes_has_its_data(mine):
    case = load_model("mine")
    assert set(case.data) == set(inspect.signature(case.model).parameters)


@pytest.mark.slow
def test_the_first_ten_minutes_end_with_a_report(mine, capsys):
    (line,) = re.findall("^qdesampler (sample .*)$", mine, re.MULTILINE)
    assert main(shlex.split(line)) == 0
    verdict = "Good: nothing speaks against these draws."
    assert verdict in " ".join(mine.split())
    assert verdict in capsys.readouterr().out
    made = {path.name for path in Path("runs/mine").iterdir()}
    assert made == {"report.html", "summary.csv", "posterior.nc", "plots"}
    assert [name for name in made if f"`{name}" not in mine] == []


def test_the_figure_and_the_table_of_the_readme_are_the_measured_page_s(tmp_path):
    script = runpy.run_path(str(DOCS / "evaluations.py"))
    counts = script["evaluations"]()
    assert len(counts) == 14
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for peer, label in (("NUTS", "NUTS / QDE"), ("nutpie, low-rank", "nutpie / QDE")):
        (row_shown,) = re.findall(rf"^\| {label} \|(.*)\|$", readme, re.MULTILINE)
        cells = row_shown.split("|")
        shown = sorted(float(cell) for cell in cells if "failed" not in cell)
        known = sorted(row[peer][0] / row["QDE"][0] for row in counts.values() if peer in row)
        np.testing.assert_allclose(shown, known, rtol=0.05)  # two digits; QDE's counts are rounded
    script["draw"](tmp_path / "figure.png")
    made, kept = imread(tmp_path / "figure.png"), imread(DOCS / "evaluations.png")
    assert made.shape == kept.shape
    # the kept picture is the one that is drawn; letters may be set otherwise by another Matplotlib
    differing = np.abs(made[..., :3] - kept[..., :3]).max(axis=-1) > 0.1
    assert differing.mean() < 0.02 < np.mean(kept[..., :3].min(axis=-1) < 0.9)


@pytest.mark.slow
def test_the_code_of_the_gallery_draws_its_pictures(tmp_path):
    pictures = runpy.run_path(str(DOCS / "gallery.py"))["draw"](tmp_path)
    assert len(pictures) == (DOCS / "gallery.md").read_text(encoding="utf-8").count('.png"')
    for picture in pictures:
        seen = imread(picture)[..., :3]
        assert min(seen.shape[:2]) > 300
        assert len(np.unique(seen.reshape(-1, 3), axis=0)) > 50, picture


def test_a_picture_stands_below_the_code_that_draws_it(tmp_path, monkeypatch):
    script = runpy.run_path(str(DOCS / "gallery.py"))
    shown = script["with_pictures"]
    monkeypatch.setitem(shown.__globals__, "PICTURES", tmp_path / "gallery")
    page = 'Text.\n\n```python\ndraw("one.png")\n```\n\n```python\ndraw("two.png")\n```\n'
    assert shown(page) == page  # nothing has been drawn
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery" / "two.png").touch()
    found = shown(page)
    assert "one.png)" not in found
    assert found.index('draw("two.png")') < found.index("![two](gallery/two.png)")


def test_the_citation_names_this_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {qdesampler.__version__}\n" in text
    assert f"version = {{{qdesampler.__version__}}}" in (DOCS / "cite.md").read_text(encoding="utf-8")


def test_every_public_name_is_documented_and_nothing_is_warned_about(tmp_path):
    """`make docs` without the writing of pages; in another process, because Sphinx changes signatures."""
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "dummy", "-d", tmp_path, DOCS, tmp_path / "pages"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (built.returncode, built.stderr) == (0, "")
    environment = pickle.loads((tmp_path / "environment.pickle").read_bytes())
    described = set(environment.domaindata["py"]["objects"])
    pages = [page.stem for page in (DOCS / "api").glob("*.md")]
    faces = [importlib.import_module(f"qdesampler.{room}") for room in pages if room != "names"]
    faces = [face for face in faces if hasattr(face, "__all__")]
    assert len(faces) >= 5
    public = {f"{face.__name__}.{name}": getattr(face, name) for face in faces for name in face.__all__}
    of_classes = {
        f"{name}.{method}": function
        for name, value in public.items()
        if inspect.isclass(value)
        for method, function in vars(value).items()
        if inspect.isfunction(function) and not method.startswith("_") and function.__doc__
    }
    names = [name for name, value in {**public, **of_classes}.items() if callable(value)]
    assert [name for name in names if name not in described] == []
    top = {name: getattr(qdesampler, name) for name in qdesampler.__all__}
    assert [name for name, v in top.items() if not inspect.ismodule(v) and v not in public.values()] == []
