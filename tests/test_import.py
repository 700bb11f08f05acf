"""Importing qdesampler leaves no trace: no array, no backend, nobody else's setting changed."""

import json
import subprocess
import sys
from importlib import import_module
from types import ModuleType

import pytest

import qdesampler

# The settings are read after the third parties themselves are imported, so that only our own doing shows.
PROBE = """
import json, logging, random, sys, time, warnings
import arviz, jax, matplotlib, numpy, numpyro
from jax._src.xla_bridge import backends_are_initialized

def settings():
    return {
        "jax": repr(sorted(jax.config.values.items())),
        "numpy": repr((numpy.geterr(), numpy.get_printoptions())),
        "numpy.random": repr(numpy.random.get_state()),
        "random": repr(random.getstate()),
        "warnings": repr(warnings.filters),
        "matplotlib": repr(sorted(matplotlib.rcParams.items())),
        "arviz": repr(sorted(arviz.rcParams.items())),
        "logging": repr((logging.getLogger().handlers, logging.getLogger().level)),
    }

before = settings()
start = time.perf_counter()
SUBJECT
seconds = time.perf_counter() - start
after = settings()
print(json.dumps({
    "seconds": seconds,
    "changed": sorted(name for name in before if before[name] != after[name]),
    "backend": backends_are_initialized(),
    "arrays": len(jax.live_arrays()),
    "optional": [name for name in ("funsor",) if name in sys.modules],
}))
"""

EVERY_NAME = """
import qdesampler
assert qdesampler.__all__
for name in qdesampler.__all__:
    getattr(qdesampler, name)
for room in (qdesampler.solvers, qdesampler.infer, qdesampler.diagnostics, qdesampler.driver):
    for name in room.__all__:
        getattr(room, name)
"""

EVERY_MODULE = """
import importlib, pkgutil
import qdesampler
for module in pkgutil.walk_packages(qdesampler.__path__, "qdesampler."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""

MISDEEDS = """
import funsor
kept = jax.numpy.zeros(3)
jax.config.update("jax_enable_x64", True)
numpy.seterr(all="raise")
numpy.random.seed(1)
random.seed(1)
warnings.simplefilter("ignore")
matplotlib.rcParams["figure.dpi"] = 71
arviz.rcParams["stats.ci_prob"] = 0.5
logging.basicConfig()
"""


def effects_of(subject: str) -> dict:
    """What executing `subject` leaves behind in a fresh interpreter."""
    code = PROBE.replace("SUBJECT", subject)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_leaves_no_trace():
    effects = effects_of(EVERY_MODULE + EVERY_NAME)
    print(f"importing all took {effects.pop('seconds'):.2f} s after the dependencies")
    assert effects == {"changed": [], "backend": False, "arrays": 0, "optional": []}


def test_the_probe_sees_every_misdeed():
    effects = effects_of(MISDEEDS)
    assert set(effects["changed"]) == {
        "jax",
        "numpy",
        "numpy.random",
        "random",
        "warnings",
        "matplotlib",
        "arviz",
        "logging",
    }
    assert effects["backend"] is True
    assert effects["arrays"] > 0
    assert effects["optional"] == ["funsor"]


# --------------------------------------------------------------------------- what an import loads

# Beyond what JAX and NumPyro load: (imported, seconds of CPU at most, packages that stay away).
WEIGHTS = {
    "sampler": (
        "from qdesampler import QDE, MCMC",
        0.3,
        [
            "scipy.stats",
            "matplotlib",
            "pandas",
            "xarray",
            "arviz",
            "arviz_base",
            "arviz_stats",
            "arviz_plots",
        ],
    ),
    "summary": ("from qdesampler import summary", None, ["scipy.stats", "matplotlib", "arviz_plots"]),
    "evidence": ("from qdesampler import log_evidence", 0.5, ["scipy.stats", "matplotlib", "pandas"]),
}

WEIGHT_PROBE = """
import json, sys, time
import jax, numpyro
before = set(sys.modules)
start = time.process_time()
SUBJECT
print(json.dumps({"seconds": time.process_time() - start, "loaded": sorted(set(sys.modules) - before)}))
"""


def weight_of(subject: str) -> dict:
    """Seconds of CPU and modules that `subject` costs after JAX and NumPyro."""
    code = WEIGHT_PROBE.replace("SUBJECT", subject)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", WEIGHTS)
def test_an_import_loads_only_what_it_needs(name):
    subject, most_seconds, unwanted = WEIGHTS[name]
    weight = weight_of(subject)
    assert any(module.startswith("qdesampler.") for module in weight["loaded"])
    assert [module for module in unwanted if module in weight["loaded"]] == []
    if most_seconds is not None:
        assert weight["seconds"] < most_seconds


def test_the_weight_of_another_module_is_seen():
    assert "matplotlib" in weight_of("import qdesampler, matplotlib")["loaded"]


def test_the_public_face_is_small():
    names = [name for name in qdesampler.__all__ if not isinstance(getattr(qdesampler, name), ModuleType)]
    assert len(names) <= 19, names


@pytest.mark.parametrize("name", sorted(qdesampler._MOVED))
def test_a_name_that_has_moved_still_works_and_names_its_new_place(name):
    module, new_name = qdesampler._MOVED[name]
    with pytest.warns(DeprecationWarning, match=f"use `from qdesampler.{module} import {new_name}`"):
        value = getattr(qdesampler, name)
    assert value is getattr(import_module(f"qdesampler.{module}"), new_name)


def test_an_unknown_name_is_refused_with_those_that_exist():
    with pytest.raises(AttributeError, match="no attribute 'NUTS'; it has AnnealedQDE, "):
        _ = qdesampler.NUTS


# ----------------------------------------------------------------------- what an import must not disturb

FACTOR = """
import numpyro
from numpyro.handlers import seed
seed(lambda: numpyro.factor("f", 0.0), 0)()
"""


@pytest.mark.parametrize(
    ("first", "works"),
    [
        ("from qdesampler import summary, QDE", True),
        ("import qdesampler.diagnostics; qdesampler.diagnostics.draw_png", True),
        ("import arviz_base, numpyro.distributions", False),  # why diagnostics import NumPyro first
    ],
)
def test_numpyro_is_whole_whichever_part_is_imported_first(first, works):
    done = subprocess.run([sys.executable, "-c", first + FACTOR], capture_output=True, text=True)
    assert (done.returncode == 0) == works, done.stderr
