"""Stan's own NUTS, by PyStan, whose package carries Stan and needs a C++ compiler.

PyStan is optional: `pip install 'qdesampler[stan]'`.
"""

import contextlib
import io
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from qdesampler.bench.harness.record import Settings

__all__ = ["StanRun", "build_stan", "stan_nuts"]


class StanRun(NamedTuple):
    """Draws by name, shapes `(chains, draws, ...)`, and leapfrog steps of the warm-up and of the draws."""

    draws: dict[str, np.ndarray]
    of_warmup: int
    of_draws: int


def build_stan(code: str, data: Mapping[str, Any]) -> Any:
    """A compiled model of PyStan, which keeps it for the next time; what PyStan prints is not shown.

    Raises:
        ImportError: PyStan is not installed.
    """
    try:
        import stan
    except ImportError as error:
        raise ImportError(
            "PyStan is not installed: pip install 'qdesampler[stan]', or leave its methods out."
        ) from error
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return stan.build(code, data=dict(data), random_seed=1)


def stan_nuts(model: Any, settings: Settings) -> StanRun:
    """A run of Stan's NUTS with its diagonal metric and its default settings.

    Args:
        model: of PyStan.
        settings: chains, iterations of the warm-up and draws.
    """
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        fit = model.sample(
            num_chains=settings.chains,
            num_warmup=settings.warmup,
            num_samples=settings.draws,
            save_warmup=True,
        )

    def by_chain(name: str) -> np.ndarray:
        """Shape `(chains, iterations, ...)`: PyStan has the chains of an iteration side by side, at last."""
        values = np.asarray(fit[name], float)
        values = values.reshape(*values.shape[:-1], -1, settings.chains)
        return np.moveaxis(values, (-1, -2), (0, 1))

    steps = by_chain("n_leapfrog__")
    draws = {name: by_chain(name)[:, settings.warmup :] for name in model.param_names}
    shapes = dict(zip(model.param_names, model.dims, strict=True))
    return StanRun(
        {name: value.reshape(*value.shape[:2], *shapes[name]) for name, value in draws.items()},
        int(np.sum(steps[:, : settings.warmup])),
        int(np.sum(steps[:, settings.warmup :])),
    )
