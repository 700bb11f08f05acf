"""The completion script, as Bash runs it."""

import shutil
import subprocess
import sys

import pytest

from qdesampler.cli.completion import completion_script
from qdesampler.cli.main import main
from qdesampler.cli.parser import parser

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no Bash")


def completed(*words: str) -> set[str]:
    """What Bash offers for the last of the words."""
    line = " ".join(f"'{word}'" for word in words)
    script = f"{completion_script(parser())}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}\n"
    script += '_qdesampler; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return set(done.stdout.split())


def test_commands_options_and_values():
    assert {"sample", "compare", "ground-state", "anneal", "models", "--help"} <= completed("qdesampler", "")
    assert completed("qdesampler", "gr") == {"ground-state"}
    assert completed("qdesampler", "sample", "--re") == {"--resume"}
    assert completed("qdesampler", "sample", "--kernel", "") == {"annealed", "nuts", "qde"}
    assert completed("qdesampler", "ground-state", "x", "--boundary", "h") == {"hard"}
    assert completed("qdesampler", "compare", "--resume") == set()  # another command's option
    assert completed("qdesampler", "sample", "mod") == set()  # the shell completes files


def test_the_option_prints_the_script(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--print-completion"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == completion_script(parser())


def test_the_command_leaves_numpyro_whole():
    """ArviZ loads NumPyro lazily: imported first, it takes `numpyro.distributions.distribution` away."""
    code = "import qdesampler.cli.main, numpyro.distributions; numpyro.distributions.distribution.Unit"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
