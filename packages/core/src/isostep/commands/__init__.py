"""The command line ``isostep``: one module a command, each tried with ``isostep COMMAND --help``.

A command prints text, or with ``--json`` one JSON value. An error is one line (what, allowed, got, next step)
on stderr and exit code 2. Nothing but NumPy is needed for the commands that only look; the others say which
extra brings what they need.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import isostep
from isostep.commands import catalogue, completion, diff, doctor, plot, train
from isostep.commands.common import Parser, UsageError, complaint
from isostep.extras import MissingExtra
from isostep.formulas import FormulaError

#: Exit code where Ctrl-C ended the command.
INTERRUPTED = train.INTERRUPTED
#: What is the caller's to mend.
ERRORS = (
    UsageError,
    MissingExtra,
    isostep.RuleError,
    isostep.TraceError,
    isostep.DomainError,
    isostep.BackendError,
    isostep.FileError,
    isostep.StepError,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    _open_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:2] == ["complete", "--"]:  # a shell asks what the last word may become
        print("\n".join(completion.candidates(parser(), words[2:] or [""])))
        return 0
    arguments = parser().parse_args(words)
    try:
        code = int(arguments.run(arguments) or 0)
        sys.stdout.flush()
    except ERRORS as error:
        return complain(error.line if isinstance(error, FormulaError) else error)
    except MemoryError as error:
        return complain(f"the memory here is too small for this: {error}; ask for less")
    except BrokenPipeError:  # `isostep show adam | head`
        _leave_stdout()
        return 0
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:  # it is full, and would be tried again at exit
            _leave_stdout()
        place = f"{error.filename}: " if error.filename else ""
        return complain(f"{place}{error.strerror or error}; choose another place")
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def complain(what: object) -> int:
    """Say in one line what is the caller's to mend; the exit code."""
    print(complaint(what), end="", file=sys.stderr)
    return 2


def _open_streams() -> None:
    """What the caller has closed (``isostep list >&-``) is None to Python: what is written there is nobody's."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))


def _leave_stdout() -> None:
    """Let nothing more be written to standard output."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parser() -> Parser:
    """The commands and their arguments."""
    top = Parser(prog="isostep", description="Optimizers, each specified once.")
    top.add_argument("--version", action="version", version=isostep.__version__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (catalogue, diff, plot, train, doctor, completion):
        module.add(commands)
    return top


__all__ = ["UsageError", "main", "parser"]
