"""What diagnostics ask of kernels: a made-up kernel that answers, and kernels that do not."""

from types import SimpleNamespace

import numpy as np
import pytest

from qdesampler.diagnostics import to_datatree
from qdesampler.diagnostics.datatree.kernel_answers import kernel_answer, kernel_facts
from qdesampler.infer import QDE, AnnealedQDE
from qdesampler.infer.model.kernel_base import TargetKernel

QUESTIONS = ("facts", "trial_report", "ladder_summary", "evidence_report")


def test_a_kernel_of_any_class_is_asked_with_its_last_state(finished_run):
    run = finished_run({"x": np.zeros((2, 6))})
    assert kernel_facts(run) == {}
    run.last_state = SimpleNamespace(i=7)
    run.sampler.facts = lambda state: {"made_up": f"at iteration {state.i}", "iterations": state.i}
    assert kernel_facts(run) == {"made_up": "at iteration 7", "iterations": 7}
    attrs = to_datatree(run, attrs={"iterations": 8}).attrs
    assert attrs["made_up"] == "at iteration 7"
    assert attrs["iterations"] == 8  # the user has the last word
    run.last_state = None  # it is lost if a process fails
    assert kernel_facts(run) == {}


def test_a_state_without_its_kernel_is_asked_through_its_adaptation():
    state = SimpleNamespace(adapt_state=SimpleNamespace(ladder_summary=lambda: "a ladder"))
    assert kernel_answer(state, "ladder_summary") == "a ladder"
    assert kernel_answer(state, "evidence_report") is None
    assert kernel_answer("no state", "ladder_summary") is None


def test_a_target_kernel_answers_every_question_with_nothing_by_default():
    class Silent(TargetKernel):
        init = sample = postprocess_fn = None

    kernel = object.__new__(Silent)
    answers = [getattr(kernel, question)(None) for question in QUESTIONS]
    assert answers == [{}, None, None, None]
    own = {
        cls: {q for q in QUESTIONS if getattr(cls, q) is not getattr(TargetKernel, q)}
        for cls in (QDE, AnnealedQDE)
    }
    assert own == {
        QDE: {"facts", "trial_report"},
        AnnealedQDE: {"facts", "ladder_summary", "evidence_report"},
    }


def test_facts_of_qde(mcmc, tree):
    facts = kernel_facts(mcmc)
    assert facts.items() <= tree.attrs.items()
    shared = mcmc.last_state.adapt_state.shared
    has_trial = facts["solve_outcome"] in ("solved", "middling")
    assert has_trial or facts["solve_outcome"] == "hopeless"
    assert (facts["solve_bounded"], facts["solve_has_trial"]) == (1, has_trial)
    assert facts["solve_acceptance"] == pytest.approx(float(shared.acceptance))
    assert facts["global_share"] == pytest.approx(float(shared.global_probability))
    trial = kernel_answer(mcmc, "trial_report")
    assert trial.global_probability == facts["global_share"]
    assert trial.as_written.shape == (10,)
    assert kernel_answer(mcmc, "ladder_summary") is None
