"""Progress bars of notebooks: their length and colour are those of the run."""

from dataclasses import replace
from functools import partial

import pytest
from tqdm.notebook import tqdm

from qdesampler.densities.progress import Bar, EvaluationProgress
from qdesampler.driver.progress import Progress, ProgressBar

HALF = Progress("sample", 50, 100, 40, 1.0, 60, 60.0, 0.9, 0, None, None, 1.0)


class Kept(tqdm):
    """A bar that is not displayed, and that tells of its widget after it is closed."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs, display=False)
        self.widget = self.container.children[1]

    @property
    def looks(self) -> tuple[float, float, str]:
        return self.widget.value, self.widget.max, self.widget.bar_style


@pytest.fixture
def made():
    """The bars that were made, and a way to make them."""
    bars: list[Kept] = []

    def make(*args, **kwargs):
        bars.append(Kept(*args, **kwargs))
        return bars[-1]

    return bars, make


def test_a_bar_whose_run_may_end_early_is_full_and_green(made):
    bars, make = made
    for ended_by in ("until", "callback", "max_time", "error"):
        bar = ProgressBar(100, make)
        bar(HALF)
        bar.close(ended_by)
    early, called, cut, failed = (bar.looks for bar in bars)
    assert early == called == (50, 50, "success")
    assert cut == failed == (50, 100, "danger")  # the draws that were asked for are not there


def test_a_finished_bar_is_full(made):
    bars, make = made
    bar = ProgressBar(100, make)
    bar(replace(HALF, iteration=100))
    bar.close("num_samples")
    assert bars[0].looks == (100, 100, "success")


def test_the_length_of_a_bar_of_evaluations_becomes_known(made):
    bars, make = made
    bar = Bar(make)
    bar(EvaluationProgress("warm-up", 30, None, 0, 1.0, None))
    assert bars[0].looks[2] == "info"  # no length yet
    began = bars[0].start_t
    for done, left in ((30, 70), (50, 70), (60, 60)):
        bar(EvaluationProgress("draws", done, left, 1, 1.0, 1.0))
        assert bars[0].looks == (done, done + left, "")
    assert bars[0].start_t == began  # the time is that of the whole run
    bar.close()
    assert bars[0].looks[2] == "danger"  # 60 of 120: something went wrong


def test_setting_the_total_alone_would_not_do():
    bar = partial(Kept, unit=" evaluations")()
    bar.total, bar.n = 100, 50
    bar.refresh()
    assert bar.looks[:2] == (1, 1)  # the widget's limit, which is still the first one
    bar.close()
