"""The evidence by tempering: its value, comparisons of models, and what the ladder of replicas says of it."""

from qdesampler.diagnostics import ladder_findings as ladder_findings
from qdesampler.diagnostics import ladder_summary as ladder_summary
from qdesampler.infer import anneal_particles as anneal_particles
from qdesampler.infer import anneal_walkers as anneal_walkers
from qdesampler.infer import compare_evidence as compare_evidence
from qdesampler.infer import log_evidence as log_evidence
