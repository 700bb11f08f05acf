"""The HTML page: whole in itself, escaped, complete, written at once."""

import base64
import os
import re
from html.parser import HTMLParser

import arviz as az
import numpy as np
import pytest

from qdesampler.diagnostics import Analysis, Diagnosis, Plot, diagnose, report, summary
from qdesampler.diagnostics.statistics.summary_table import MAX_NAME

PNG = b"\x89PNG\r\n\x1a\nnot really"
EVIL = "<script>alert('x')"


class Page(HTMLParser):
    """Tags, attributes and text of a page; void elements aside, every tag must be closed in order."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.attributes, self.text, self.style = [], [], [], "", ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.text += data + "\n"


@pytest.fixture
def page(tree, tmp_path):
    """`page(tree, **settings)`: the parsed report, without drawing unless asked."""

    def make(run=tree, **settings):
        found = Analysis(run)
        found.plots = settings.pop("plots", [Plot("trace", "Trace & more", "What it <shows>", PNG)])
        if "findings" in settings:
            found.findings = settings.pop("findings")
        path = report(found, tmp_path / "report.html", **settings)
        text = path.read_text(encoding="utf-8")
        parsed = Page(text)
        assert parsed.open == []
        return parsed, text

    return make


def test_nothing_outside_is_needed(page):
    parsed, text = page()
    assert not {"script", "link", "iframe", "object"} & set(parsed.tags)
    for name, value in parsed.attributes:
        if name in ("src", "href", "srcset", "action", "data"):
            assert value.startswith("data:image/png;base64,")
        assert not name.startswith("on")
    assert "url(" not in parsed.style
    assert "@import" not in parsed.style
    assert "http" not in text.replace(base64.b64encode(PNG).decode(), "")


def test_it_says_everything(page, tree):
    parsed, text = page()
    for words in ("schools", "QDE", "4 (vectorized)", "200 iterations", "250 in each chain, 1,000 together"):
        assert words in parsed.text
    assert f"{tree.attrs['warmup_evals']:,}" in parsed.text
    assert f"{tree.attrs['sampling_evals']:,}" in parsed.text
    for name in summary(tree).index:
        assert re.search(rf'<td( class="bad")?>{re.escape(name)}</td>', text)
    for library in ("qdesampler", "jax", "numpyro", "arviz"):
        version = tree.attrs["inference_library_version" if library == "qdesampler" else f"{library}_version"]
        assert f"{library} {version}" in parsed.text
    assert base64.b64encode(PNG).decode() in text


def test_the_verdict_and_its_reasons(page, tree):
    good, text = page(findings=Diagnosis())
    assert "Good: nothing speaks against these draws." in good.text
    assert 'class="verdict good"' in text
    still = az.from_dict({"posterior": {"x": np.repeat(np.eye(4), 20, 1)}})
    bad, text = page(still)
    assert 'class="verdict bad"' in text
    assert '<td class="bad">' in text
    for finding in diagnose(still):
        assert finding.message in bad.text
        assert finding.advice in bad.text


def test_names_are_escaped(page):
    posterior = {f"x{EVIL}": np.random.default_rng(0).normal(size=(4, 200))}
    run = az.from_dict({"posterior": posterior})
    run.attrs["model"] = f"m{EVIL}"
    run.attrs["kernel"] = f"k{EVIL}"
    parsed, _ = page(run, comparison=f"c{EVIL}")
    assert "script" not in parsed.tags
    for letter in "mkcx":
        assert f"{letter}{EVIL}" in parsed.text
    assert "What it <shows>" in parsed.text


def test_a_long_table_is_cut(page):
    run = az.from_dict({"posterior": {"x": np.random.default_rng(0).normal(size=(2, 20, 230))}})
    parsed, _ = page(run)
    assert parsed.tags.count("tr") == 201 + 1 + len(diagnose(run).checks)
    assert "The table has 200 rows." in parsed.text
    assert "200 of 230 rows" in parsed.text


def test_long_names_are_short_in_the_summary_and_whole_for_a_pointer(page):
    long = "a_site_whose_name_would_take_three_quarters_of_the_width_of_the_table"
    rng = np.random.default_rng(0)
    parsed, _ = page(
        az.from_dict({"posterior": {long: rng.normal(size=(4, 500, 2)), "x": rng.normal(size=(4, 500))}})
    )
    assert [value for name, value in parsed.attributes if name == "title"] == [f"{long}[0]", f"{long}[1]"]
    cells = [text.strip() for text in parsed.text.splitlines()]
    (first, second) = (
        text for text in cells if text.startswith("a_site_") and "\N{HORIZONTAL ELLIPSIS}" in text
    )
    assert (first[-3:], second[-3:]) == ("[0]", "[1]")
    assert max(len(first), len(second)) <= MAX_NAME
    assert "x" in cells


def test_a_row_with_a_bad_number_is_marked_where_it_begins(page):
    rng = np.random.default_rng(0)
    stuck = np.repeat(np.arange(4.0), 500).reshape(4, 500) + 0.1 * rng.normal(size=(4, 500))
    parsed, text = page(az.from_dict({"posterior": {"sound": rng.normal(size=(4, 500)), "stuck": stuck}}))
    assert '<td class="bad">stuck</td>' in text
    assert "<td>sound</td>" in text
    assert "scroll it sideways" in parsed.text  # the hint of narrow windows


def test_print_keeps_plots_whole(page):
    parsed, text = page()
    assert '<section class="whole"><h2>Trace &amp; more</h2>' in text
    (rules,) = re.findall(r"@media print \{.*", parsed.style, re.DOTALL)
    (kept,) = re.findall(r"([^{}]*)\{ break-inside: avoid; \}", rules)
    assert ".whole" in kept
    assert "section" not in kept  # the tables may be longer than a page
    # A4 and Letter have 251 mm between margins of 14 mm; heading and caption take less than 40 mm.
    (height,) = re.findall(r"figure img \{ max-height: (\d+)mm", rules)
    assert int(height) <= 251 - 40


def test_written_at_once(tree, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("the old one")

    def broken(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    found = Analysis(tree)
    found.plots = []
    with pytest.raises(OSError, match="disk full"):
        report(found, path)
    assert path.read_text() == "the old one"
    assert os.listdir(tmp_path) == ["report.html"]


def test_a_run_and_a_title(mcmc, page):
    parsed, _ = page(mcmc, title="My schools")
    assert "My schools" in parsed.text
