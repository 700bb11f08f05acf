"""A script that completes commands, options and their values in Bash, and in zsh by its `bashcompinit`."""

import argparse
from collections.abc import Sequence
from typing import Any

__all__ = ["PrintCompletion", "completion_script"]

_SCRIPT = """\
_qdesampler() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="{commands}"
  else
    case "${{COMP_WORDS[1]}} $before" in
{values}
    *)
      case "$word" in
      -*)
        case "${{COMP_WORDS[1]}}" in
{options}
        esac ;;
      esac ;;
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _qdesampler qdesampler
"""


class PrintCompletion(argparse.Action):
    """The option that prints the script and ends the command."""

    def __init__(self, option_strings: Sequence[str], dest: str, **further: Any):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, **further)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Print it."""
        del namespace, values, option_string
        print(completion_script(parser), end="")
        parser.exit()


def completion_script(parser: argparse.ArgumentParser) -> str:
    """The script for a parser with subcommands; elsewhere the shell completes names of files."""
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    values, options = [], []
    for name, command in commands.choices.items():
        flags = [flag for action in command._actions for flag in action.option_strings]
        options.append(f'        {name}) words="{" ".join(flags)}" ;;')
        for action in command._actions:
            if action.option_strings and action.choices is not None:
                cases = " | ".join(f'"{name} {flag}"' for flag in action.option_strings)
                values.append(f'    {cases}) words="{" ".join(map(str, action.choices))}" ;;')
    top = [*commands.choices, *(flag for action in parser._actions for flag in action.option_strings)]
    return _SCRIPT.format(commands=" ".join(top), values="\n".join(values), options="\n".join(options))
