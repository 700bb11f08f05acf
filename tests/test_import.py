"""Importing qdesampler leaves no trace: no array, no backend, nobody else's setting changed."""

import json
import subprocess
import sys

import pytest

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


@pytest.mark.parametrize("subject", ["import qdesampler", EVERY_NAME, EVERY_MODULE])
def test_importing_leaves_no_trace(subject):
    effects = effects_of(subject)
    seconds = effects.pop("seconds")
    print(f"{subject.strip().splitlines()[0]} ... took {seconds:.2f} s after the dependencies")
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
