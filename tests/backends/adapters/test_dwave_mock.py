"""D-Wave's stack behind our protocol, by Ocean's own mock of a machine: no network, no token."""

import warnings

import dimod
import jax
import numpy as np
import pytest

from qdesampler.backends import BackendError, BackendRetryWarning, DimodBackend, IsingProblem

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # invalid escapes in docstrings of Ocean's dependencies
    from dwave.embedding.exceptions import EmbeddingError
    from dwave.system import EmbeddingComposite, FixedEmbeddingComposite

KEY = jax.random.key(0)
LABELS = ["zeta", "b", "alpha", "d"]  # as in the fixture `embedding`


pytestmark = pytest.mark.usefixtures("no_network")


def glass(scale=0.6):
    rng = np.random.default_rng(3)
    return IsingProblem.from_dense(
        scale * rng.normal(size=4), np.triu(scale * rng.normal(size=(4, 4)), 1), 0.3
    )


def test_reads_through_embedding_histogram_and_broken_chains(machine, embedding):
    # weak chains break in most reads
    device = FixedEmbeddingComposite(machine, embedding)
    backend = DimodBackend(device, labels=LABELS, answer_mode="histogram", chain_strength=0.05)
    assert backend.capabilities.law == "unknown"
    assert backend.capabilities.topology == ("zephyr", 2, 4)
    assert backend.capabilities.max_num_reads == machine.properties["num_reads_range"][1]
    samples = backend.sample(glass(), key=KEY, num_reads=200)
    assert samples.states.shape == (200, 4)
    np.testing.assert_allclose(samples.energies, glass().energies(samples.states))
    assert len(np.unique(samples.states, axis=0)) > 4
    (record,) = backend.records
    assert record["chain_break_fraction"] > 0.2
    assert record["timing"]["qpu_access_time"] > 0
    whole = DimodBackend(device, labels=LABELS, chain_strength=4.0)
    whole.sample(glass(), key=KEY, num_reads=200)
    assert whole.records[0]["chain_break_fraction"] < record["chain_break_fraction"] / 2


def test_calls_are_no_longer_than_the_machine_allows(machine, embedding):
    backend = DimodBackend(FixedEmbeddingComposite(machine, embedding), labels=LABELS, max_num_reads=30)
    assert backend.sample(glass(), key=KEY, num_reads=70).states.shape == (70, 4)
    assert [record["reads"] for record in backend.records] == [30, 30, 10]


def test_problems_that_do_not_fit_are_refused_by_ocean_at_once(machine, embedding):
    five = IsingProblem.from_dense(np.zeros(5), np.triu(np.ones((5, 5)), 1))
    fixed = DimodBackend(
        FixedEmbeddingComposite(machine, embedding), labels=[*LABELS, "e"], backoff=100.0, num_retries=3
    )
    with pytest.raises(EmbeddingError, match="chain for e"):
        fixed.sample(five, key=KEY)
    n = 40  # more than any clique of this graph
    clique = IsingProblem.from_dense(np.zeros(n), np.triu(np.ones((n, n)), 1))
    embedder = EmbeddingComposite(machine, embedding_parameters={"max_no_improvement": 1, "timeout": 1})
    with pytest.raises(ValueError, match="no embedding found"):
        DimodBackend(embedder, backoff=100.0).sample(clique, key=KEY)


def test_without_a_token_nothing_is_sent_and_oceans_own_words_say_so(monkeypatch, tmp_path):
    from dwave.system import DWaveSampler

    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.delenv("DWAVE_API_TOKEN", raising=False)
    with pytest.raises(ValueError, match="token"):
        DWaveSampler()


def test_a_busy_machine_is_asked_again_and_then_given_up(machine, embedding):
    class Busy(dimod.ComposedSampler):
        """Says no for a while, with a secret in its words."""

        def __init__(self, refusals):
            self.refusals = refusals

        parameters = property(lambda self: machine.parameters)
        properties = property(lambda self: {"child_properties": machine.properties})
        children = property(lambda self: [FixedEmbeddingComposite(machine, embedding)])

        def sample(self, bqm, **kwargs):
            self.refusals -= 1
            if self.refusals >= 0:
                raise TimeoutError("https://user:token-1234@cloud")
            return self.child.sample(bqm, **kwargs)

    with pytest.warns(BackendRetryWarning, match="TimeoutError"):
        samples = DimodBackend(Busy(1), labels=LABELS, backoff=0.0).sample(glass(), key=KEY, num_reads=5)
    assert samples.states.shape == (5, 4)
    with pytest.warns(BackendRetryWarning), pytest.raises(BackendError) as failure:
        DimodBackend(Busy(9), labels=LABELS, backoff=0.0, num_retries=1).sample(glass(), key=KEY)
    assert "token-1234" not in str(failure.value)
