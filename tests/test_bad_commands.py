"""Bad command lines: one line on standard error, exit code 2."""

import pytest

from qdesampler.cli import main as cli

# arguments of the command line, and what the line on standard error has to say
COMMANDS = {
    "no command": ("", "the following arguments are required: COMMAND"),
    "an unknown command": ("simple", "invalid choice: 'simple'"),
    "no folder for results": ("sample models/x", "the following arguments are required: --out"),
    "no model": ("sample nowhere --out out", "there is no model at nowhere"),
    "no chains": ("sample m --out out --chains 0", "argument --chains: 0 is too small; expected at least 1"),
    "half a draw": ("sample m --out out --draws 1.5", "argument --draws: invalid integer value: '1.5'"),
    "a negative seed": ("sample m --out out --seed -1", "-1 is no seed; expected 0 to"),
    "an unknown kernel": ("sample m --out out --kernel hmc", "invalid choice: 'hmc'"),
    "no folder of models": ("models nowhere", "nowhere"),
    "no potential": ("ground-state x+", "x+"),
    "kernels that are none": ("compare m --kernels ,", "expected names separated by commas"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_bad_commands_end_with_two_and_one_line(command, capsys, monkeypatch, tmp_path):
    line, message = COMMANDS[command]
    monkeypatch.chdir(tmp_path)
    try:
        code = cli.main(line.split())
    except SystemExit as end:
        code = end.code
    told = capsys.readouterr().err.strip()
    assert code == 2
    assert message in told
    assert len(told.splitlines()) == 1
