"""``isostep completion SHELL``: the few lines that let a shell complete words by asking
``isostep complete -- WORDS``, which is for them alone."""

from __future__ import annotations

import argparse
from typing import Any

from isostep.commands.common import command, print_json

SCRIPTS = {
    "bash": """\
_isostep() {
    local IFS=$'\\n'
    COMPREPLY=($(isostep complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _isostep isostep
""",
    "zsh": """\
#compdef isostep
_isostep() {
    local -a found
    found=(${(f)"$(isostep complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    (( $#found )) && compadd -- $found || _files
}
compdef _isostep isostep
""",
    "fish": """\
complete -c isostep -a '(isostep complete -- (commandline -opc)[2..-1] "$(commandline -ct)" 2>/dev/null)'
""",
}


def add(commands: Any) -> None:
    """Add the command."""
    made = command(
        commands,
        "completion",
        run,
        "a script that lets a shell complete this command's words",
        "source <(isostep completion bash)",
        "Put the example's line into ~/.bashrc; for fish: isostep completion fish | source.",
    )
    made.add_argument("shell", choices=sorted(SCRIPTS), help="the shell")


def run(arguments: argparse.Namespace) -> None:
    """Print a shell's script."""
    text = SCRIPTS[arguments.shell]
    if arguments.json:
        print_json({"script": text})
    else:
        print(text, end="")


def candidates(parser: argparse.ArgumentParser, words: list[str]) -> list[str]:
    """What the last of the words may become."""
    *before, last = words
    waiting: argparse.Action | None = None  # an option whose value comes next
    positional = _positional(parser)
    for word in before:
        if waiting is not None:
            waiting = None
        elif word.startswith("-"):
            option = parser._option_string_actions.get(word)
            waiting = option if option is not None and option.nargs != 0 else None
        elif positional:
            action = positional[0]
            if isinstance(action, argparse._SubParsersAction):
                if word not in action.choices:
                    return []
                parser = action.choices[word]
                positional = _positional(parser)
            elif action.nargs not in ("*", "+"):
                positional = positional[1:]
    if waiting is None and last.startswith("-"):
        options = (o for a in parser._actions for o in a.option_strings if o.startswith("--"))
        return sorted(o for o in options if o.startswith(last))
    action_now = waiting or (positional[0] if positional else None)
    return [] if action_now is None else _values(action_now, last)


def _positional(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [a for a in parser._actions if not a.option_strings]


def _values(action: argparse.Action, start: str) -> list[str]:
    """The values of an argument that begin so; in a list with commas, of its last entry."""
    known = action.choices if action.choices is not None else getattr(action, "complete", list)()
    done, comma, last = start.rpartition(",")
    return sorted(f"{done}{comma}{v}" for v in map(str, known) if v.startswith(last))
