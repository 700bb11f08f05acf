"""The pages at the root are true: their Python runs, their commands exist, their paths lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest

from qdesampler.cli.parser import parser

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ["README.md", "ARCHITECTURE.md"]


def blocks(text: str, language: str) -> list[str]:
    """The bodies of the fenced blocks in `language`."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def paths(text: str) -> set[str]:
    """Local files that a page names: link targets, and code in backquotes that reads as a path."""
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    quoted = re.findall(r"`((?:qdesampler|models|examples|tests)/[\w./-]*)`", text)
    return {name for name in [*links, *quoted] if not name.startswith(("http:", "https:"))}


def test_the_examples_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = blocks(README, "python")
    assert examples
    assert len(examples[0].splitlines()) <= 16
    namespace: dict = {"__name__": "readme"}
    for i, example in enumerate(examples):
        exec(compile(example, f"README.md, example {i + 1}", "exec"), namespace)


@pytest.mark.parametrize("page", PAGES)
def test_paths_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert paths(text)
    assert [name for name in sorted(paths(text)) if not (ROOT / name).exists()] == []


def test_the_commands_parse():
    lines = [line for block in blocks(README, "sh") for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("qdesampler ")]
    assert commands
    for line in commands:
        parser().parse_args(shlex.split(line, comments=True)[1:])  # exits on what it does not know


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_exist(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = (ROOT / page).read_text(encoding="utf-8")
    shell = "\n".join(blocks(text, "sh"))
    quoted = "\n".join(
        re.findall(r"`[^`\n]+`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
    )
    named = set(re.findall(r"\bmake ([a-z]+)\b", f"{shell}\n{quoted}"))
    assert named or page != "README.md"
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert named <= targets


def test_the_readers_see_what_they_should():
    page = "```python\na = 1\n```\n```sh\nmake test\n```\n[x](models/none) `tests/` `qdesampler/nowhere.py` [w](https://x.y)"
    assert blocks(page, "python") == ["a = 1\n"]
    assert paths(page) == {"models/none", "tests/", "qdesampler/nowhere.py"}
