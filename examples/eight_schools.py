"""Eight schools with QDE in the place of NUTS: sample, convert for ArviZ, summarise, diagnose.

python examples/eight_schools.py
"""

from pathlib import Path

import jax
from numpyro.infer import MCMC

from qdesampler import QDE, diagnose, load_model, summary, to_datatree

MODELS = Path(__file__).parents[1] / "models"


def main():
    case = load_model(MODELS / "eight_schools")
    mcmc = MCMC(
        QDE(case.model),
        num_warmup=500,
        num_samples=1000,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(0), **case.data)

    tree = to_datatree(mcmc)
    print(summary(tree, var_names=["mu", "tau", "theta"]))
    for finding in diagnose(tree):
        print(finding.message, finding.advice)
    warmup, draws = (int(tree.attrs[name]) for name in ("warmup_evals", "sampling_evals"))
    print(f"{warmup} log-density evaluations in the warm-up, {draws} for the draws")


if __name__ == "__main__":
    main()
