"""The wheel: the package and nothing beside it, with the version that pyproject.toml states."""

import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from importlib.metadata import version
from pathlib import Path

import pytest

import qdesampler

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# Built in a process of its own by the build backend itself: no build environment, hence no network.
BUILD = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(folder / done.stdout.split()[-1]) as archive:
        yield archive


def test_the_wheel_holds_the_package_and_nothing_beside_it(wheel):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert tops == {"qdesampler", f"qdesampler-{PROJECT['version']}.dist-info"}
    shipped = {name for name in wheel.namelist() if name.startswith("qdesampler/")}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "qdesampler").rglob("*.py")}
    assert sources <= shipped
    assert not [name for name in shipped if "__pycache__" in name or "test" in name.lower()]


def test_the_metadata_is_the_project_file_s(wheel):
    info = f"qdesampler-{PROJECT['version']}.dist-info"
    metadata = Parser().parsestr(wheel.read(f"{info}/METADATA").decode())
    assert metadata["Version"] == PROJECT["version"]
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert "qdesampler = qdesampler.cli.main:main" in wheel.read(f"{info}/entry_points.txt").decode()


def test_one_version():
    assert qdesampler.__version__ == PROJECT["version"] == version("qdesampler")


def test_the_constraints_are_plain_pins():
    """One `name==version` a line, no address, no flag: any machine's own registry can serve them."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    for pin in pins:
        name, mark, number = pin.partition("==")
        assert mark, pin
        assert name.replace("-", "").replace("_", "").isalnum(), pin
        assert number.replace(".", "").isalnum(), pin
    pinned = {pin.partition("==")[0] for pin in pins}
    assert {"jax", "numpyro", "arviz", "numpy", "pytest", "hatchling", "uv"} <= pinned
