"""From the shell: every command's wrong arguments, and what it says where an extra is not installed.

Each case is a process of its own, as a user has it; the errors of every kind are tried in one process, in
test_cli.py, test_plot.py and test_train.py.
"""

import argparse
import os
import subprocess
import sys

import pytest

import isostep
from isostep import commands
from isostep.commands import completion

#: Takes modules away: from what finds them, and from the entry points.
SHIM = """
import importlib.metadata as metadata, os, sys
absent = os.environ["ISOSTEP_TEST_ABSENT"].split()
class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, *more):
        return None if name.partition(".")[0] in absent else self.finder.find_spec(name, *more)
sys.meta_path[:] = map(Without, sys.meta_path)
found = metadata.entry_points
def present(**how):
    made = found(**how)
    if "group" not in how:
        return made
    return metadata.EntryPoints(e for e in made if e.value.partition(".")[0].partition(":")[0] not in absent)
metadata.entry_points = present
"""

RULES = ", ".join(isostep.rules())
NAMES = ", ".join([*isostep.rules(), *isostep.solvers.names()])
#: Two or more of every command: words, and the whole line without its beginning.
WRONG = [
    ("", "COMMAND must be given, got nothing; see 'isostep --help'"),
    (
        "frobnicate",
        "COMMAND must be one of list, show, diff, plot, train, doctor, completion, got 'frobnicate'; "
        "see 'isostep --help'",
    ),
    ("list adam sgd", "list takes --json, pattern, --paths, got 'sgd'; see 'isostep list --help'"),
    ("list zzz*", f"no rule or solver matches 'zzz*'; known: {NAMES}"),
    ("show", "rule must be given, got nothing; see 'isostep show --help'"),
    ("show adamm", f"unknown rule 'adamm'; did you mean 'adam'? known: {RULES}"),
    ("show adam --set lr=-1", "adam: lr must be >= 0, got -1"),
    ("show adam --s", "--s must be one of --set, --source, got --s; see 'isostep show --help'"),
    ("diff adam", "diff takes another rule or --dialects A,B; try isostep diff adam sgd"),
    ("diff adam sgd --t 1.5", "--t must be an integer, got '1.5'; see 'isostep diff --help'"),
    ("plot", "KIND must be given, got nothing; see 'isostep plot --help'"),
    (
        "plot cone",
        "KIND must be one of surface, hypergradient, signs, schedule, decay, got 'cone'; see 'isostep plot --help'",
    ),
    (
        "plot surface --noise nan -o a.html",
        "--noise must be a finite number, got 'nan'; see 'isostep plot surface --help'",
    ),
    (
        "plot surface --start 1,1e999 -o a.html",
        "--start must be two finite numbers X,Y, got '1,1e999'",
    ),
    (
        "plot surface --rules muon -o a.html",
        "muon cannot be drawn on a surface: muon: params[0] must have 2 axes, "
        "got shape (2,); give it to another rule",
    ),
    ("plot schedule REX -o a.gif", "--out must end in one of .png, .pdf, .svg, got 'a.gif'"),
    (
        "plot schedule LinearInternalDecay()",
        "LinearInternalDecay takes T_max, got 'LinearInternalDecay()'",
    ),
    ("plot decay --steps 0", "--steps must be an integer >= 1, got 0"),
    (
        "plot decay nope",
        "'nope' is not a schedule; call one of isostep.schedules, such as 'LinearInternalDecay(100)'",
    ),
    (
        "plot hypergradient nowhere",
        "no results in nowhere; make some with isostep train --dir nowhere",
    ),
    (
        "plot hypergradient a b",
        "plot hypergradient takes --json, folder, --out, got 'b'; see 'isostep plot hypergradient --help'",
    ),
    ("plot signs nowhere", "no results in nowhere; make some with isostep train --dir nowhere"),
    ("plot signs -o", "-o/--out must have a value, got none; see 'isostep plot signs --help'"),
    ("train --epochs two", "--epochs must be an integer, got 'two'; see 'isostep train --help'"),
    (
        "train --data mnist --data-dir nowhere",
        "MNIST's IDX files are not in nowhere (train-images-idx3-ubyte is missing); nothing is downloaded: "
        "pass their folder, --data-dir",
    ),
    ("doctor now", "doctor takes --json, got 'now'; see 'isostep doctor --help'"),
    ("doctor --json=1", "--json must have no value, got '1'; see 'isostep doctor --help'"),
    (
        "completion tcsh",
        "shell must be one of bash, fish, zsh, got 'tcsh'; see 'isostep completion --help'",
    ),
    ("completion", "shell must be given, got nothing; see 'isostep completion --help'"),
]
PLOT = "isostep.plot needs the package 'matplotlib'; pip install 'isostep[plot]'"
#: What is not there, words, the line or its end.
MISSING = [
    ("matplotlib", "plot surface --rules sgd(lr=0.1) -o a.png", PLOT),
    ("matplotlib", "plot schedule REX", PLOT),
    ("matplotlib", "plot decay", PLOT),
    ("matplotlib", "plot hypergradient results", PLOT.replace(".", " ", 1)),
    ("matplotlib", "plot signs results", PLOT.replace(".", " ", 1)),
    ("sklearn", "train", "isostep train needs the package 'sklearn'; pip install 'isostep[train]'"),
    ("isostep_torch", "show adam --source triton", "; pip install isostep-torch"),
    ("isostep_cupy", "show adam --source cuda", "; pip install isostep-cupy"),
    ("isostep_jax", "train --backend jax", "; pip install isostep-jax"),
    (
        "numba",
        "train --backend numpy:fused",
        "numpy:fused needs the package 'numba', which is not installed; pip install 'isostep[fused]'",
    ),
    (
        "triton",
        "train --backend torch:triton(interpreter)",
        "torch:triton(interpreter) needs the package 'triton', which is not installed; pip install triton",
    ),
    (
        "safetensors",
        "train --save --backend numpy:reference",
        "a checkpoint needs the package 'safetensors'; pip install 'isostep[files]'",
    ),
]
ROW = "Epoch,Iteration,Time,Loss,LossEpoch,ValidLossEpoch,Alpha,AlphaEpoch,Beta\n" + "".join(
    f"{k},{k},{k}.0,1.0,1.0,1.0,0.1,0.1,0.1\n" for k in range(2)
)


def ends_in_one_line(words, folder, **environment):
    """Run a command that must fail, in a folder that it must leave as it was; what it said after ``isostep: ``."""
    before = sorted(folder.rglob("*"))
    command = [sys.executable, "-m", "isostep.cli", *words.split()]
    env = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env, check=False)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("\n")
    assert sorted(folder.rglob("*")) == before
    return done.stderr.removesuffix("\n").removeprefix("isostep: ")


@pytest.mark.parametrize(("words", "text"), WRONG, ids=[words for words, _ in WRONG])
def test_a_wrong_argument(words, text, tmp_path):
    assert ends_in_one_line(words, tmp_path) == text


def test_every_command_is_among_them():
    def names(parser, *before):
        for action in completion._positional(parser):
            if isinstance(action, argparse._SubParsersAction):
                for name, command in action.choices.items():
                    yield " ".join((*before, name))
                    yield from names(command, *before, name)

    for name in names(commands.parser()):
        assert sum(f"{words} ".startswith(f"{name} ") for words, _ in WRONG) >= 2, name


@pytest.mark.parametrize(
    ("module", "words", "text"), MISSING, ids=[f"{w} without {m}" for m, w, _ in MISSING]
)
def test_what_is_missing(module, words, text, tmp_path):
    """The line ends in the command that installs it, and nothing is begun."""
    if words.startswith("train") and module != "sklearn":
        pytest.importorskip("sklearn", reason="isostep[train] is not installed")
    (tmp_path / "shim").mkdir()
    (tmp_path / "shim" / "sitecustomize.py").write_text(SHIM)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "run.csv").write_text(ROW)
    paths = os.pathsep.join([str(tmp_path / "shim"), *filter(None, [os.environ.get("PYTHONPATH")])])
    more = {"PYTHONPATH": paths, "ISOSTEP_TEST_ABSENT": module, "PYTHONDONTWRITEBYTECODE": "1"}
    said = ends_in_one_line(words, tmp_path, **more)
    assert said.endswith(text) if text.startswith(";") else said == text
