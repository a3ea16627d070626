"""The command line: what it prints, as text and as JSON, and that an error is one line and exit code 2."""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys

import pytest

import isostep
from isostep import cli, commands, nm
from isostep.backends.numpy import NumpyReference
from isostep.commands import common, completion, doctor
from isostep.rule import Rule


def run(*words):
    """Exit code, standard output, standard error, as from the shell."""
    command = [sys.executable, "-m", "isostep.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def printed(capsys, *words):
    """The same in this process, for what succeeds."""
    assert cli.main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def failed(capsys, *words):
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err.rstrip("\n")


def test_list_from_the_shell():
    code, out, err = run("list")
    assert (code, err) == (0, "")
    rules, _, solvers = out.partition("\n\n")
    head, ruler, *lines = rules.splitlines()
    assert head.split() == [*"name year family state bytes fused dialects title".split()]
    assert set(ruler) == {"-", " "}
    assert [line.split()[0] for line in lines] == isostep.rules()
    (line,) = (x for x in lines if x.startswith("addsign "))
    words = line.partition("AddSign")[0].split()
    assert words == ["addsign", "2017", "sign", "m", "20", "numpy,", "torch,", "cupy"]
    (line,) = (x for x in lines if x.startswith("soap "))
    assert "  exp_avg, exp_avg_sq, ... (10)  " in line
    assert line.partition("SOAP")[0].split()[-1] == "no"
    assert [line.split()[0] for line in solvers.splitlines()[2:]] == isostep.solvers.names()


def test_list_takes_a_pattern(capsys):
    out = printed(capsys, "list", "*sign")
    assert {"addsign", "powersign"} <= {line.split()[0] for line in out.splitlines()[2:]}


def test_list_as_json(capsys):
    rows = json.loads(printed(capsys, "list", "--json"))
    assert [r["name"] for r in rows if r["kind"] == "rule"] == isostep.rules()
    assert [r["name"] for r in rows if r["kind"] == "solver"] == isostep.solvers.names()
    found = {r["name"]: r for r in rows}
    assert found["addsign"] == {
        "name": "addsign",
        "kind": "rule",
        "year": 2017,
        "family": "sign",
        "title": isostep.definition("addsign").doc.splitlines()[0].rstrip("."),
        "paper": "Bello et al., Neural Optimizer Search with Reinforcement Learning",
        "arxiv": "1709.07417",
        "state": ["m"],
        "bytes_per_element": 20,  # p, g, m in; p, m out
        "fused": ["numpy:fused", "torch:fused", "cupy:raw"],
        "not_fused": None,
        "dialects": [],
    }
    assert found["adam"]["dialects"] == ["torch", "paper", "keras", "optax", "adamd"]
    assert found["adam"]["bytes_per_element"] == 28
    # g and the previous g for the hypergradient; then p, g in and p, g out.
    assert found["sgd_hd"]["bytes_per_element"] == 24
    assert found["muon"]["bytes_per_element"] is None
    assert found["muon"]["fused"] == []
    assert found["muon"]["not_fused"] == "it works on axes or matrices (matmul, transpose)"


@pytest.mark.whole
def test_list_asks_the_paths(capsys):
    rows = json.loads(printed(capsys, "list", "ad[ad]*", "--paths", "--json"))
    found = {r["name"]: r["paths"] for r in rows}
    paths = found["addsign"]
    assert (paths["numpy:fused"], paths["numpy:reference"]) == ("fused", "generic")
    assert (paths["torch:foreach"], paths["jax:jit"]) == ("foreach", "jit")
    fused = {r["name"]: r["fused"] for r in rows}
    assert fused["addsign"] and not fused["adafactor"]  # noqa: PT018
    for name, said in found.items():  # what is told without asking them
        own = {p: "fused" in fused_by for p, fused_by in said.items() if p in fused["addsign"]}
        assert len(own) >= 2
        assert own == {p: p in fused[name] for p in own}
    assert "numpy:fused" in printed(capsys, "list", "addsign", "--paths").splitlines()[0]


def test_show_has_everything(capsys):
    out = printed(capsys, "show", "adamw")
    definition = isostep.definition("adamw")
    assert out.startswith(definition.doc)
    assert "state    exp_avg, exp_avg_sq\n" in out
    assert out.endswith(str(isostep.program(isostep.rule("adamw"))) + "\n")
    table = [
        line.split()[0] for line in out.splitlines() if "learning rate" in line or ">= 0" in line
    ]
    assert {"lr", "eps", "weight_decay"} <= set(table)
    for name in definition.hyper:
        assert f"\n{name} " in out


def test_show_has_a_solver(capsys):
    out = printed(capsys, "show", "lbfgs")
    assert out.startswith(isostep.solvers.registry["lbfgs"].doc)
    assert "\nhistory_size " in out
    found = json.loads(printed(capsys, "show", "lbfgs", "--set", "max_iter=3", "--json"))
    assert (found["kind"], found["values"]["max_iter"], found["values"]["max_eval"]) == (
        "solver",
        3,
        None,
    )


@pytest.mark.parametrize("name", isostep.pieces.registry.names())
def test_show_has_pieces(capsys, name):
    piece = isostep.pieces.registry[name]
    out = printed(capsys, "show", name)
    assert out.startswith(piece.doc)
    assert (
        f"kind     piece, used by isostep.compose(isostep.pieces.{name}(...), isostep.rule(...))\n"
        in out
    )
    assert all(f"\n{n} " in out for n in piece.hyper)
    found = json.loads(printed(capsys, "show", name, "--json"))
    assert (found["kind"], found["year"], [h["name"] for h in found["hyper"]]) == (
        "piece",
        piece.year,
        [*piece.hyper],
    )


def test_show_takes_a_formula(capsys):
    out = printed(capsys, "show", "formula(sign(m) * g)")
    assert out.endswith(str(isostep.program(isostep.from_formula("sign(m) * g", lr=1.0))) + "\n")


def test_show_as_json(capsys):
    found = json.loads(printed(capsys, "show", "adam", "--set", "amsgrad=True", "--json"))
    assert found["state"] == ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"]
    assert found["hyper"][0] == {
        "name": "lr",
        "allowed": ">= 0",
        "default": "0.001",
        "meaning": "learning rate",
    }
    assert found["program"] == str(isostep.program(isostep.rule("adam", amsgrad=True)))
    assert found["doc"] == isostep.definition("adam").doc
    assert found["follows"].startswith("Kingma, Ba, ")
    assert "amsgrad in torch" in found["departs"]
    assert found["formula"].lstrip().startswith("g <- g + weight_decay * p")
    assert found["lr_unit"].startswith("parameter units per step")
    assert found["values"]["betas"] == [0.9, 0.999]
    assert found["bytes_per_element"] == 36  # amsgrad's third array too


def test_settings_are_values_or_words(capsys):
    keras = printed(capsys, "show", "adam", "--set", "dialect=keras", "--source", "program")
    assert keras.rstrip() == str(isostep.program(isostep.rule("adam", dialect="keras")))
    pair = printed(capsys, "show", "adam", "--set", "betas=(0.5, 0.25)", "--source", "program")
    assert pair.rstrip() == str(isostep.program(isostep.rule("adam")))


def test_source_from_the_shell():
    code, out, err = run("show", "addsign", "--source", "program")
    assert (code, out, err) == (0, f"{isostep.program(isostep.rule('addsign'))}\n", "")


@pytest.mark.whole
def test_source_of_a_kernel_is_python(capsys):
    from isostep.lower.numba_source import source

    text = printed(capsys, "show", "lamb", "--source", "numba", "--dtype", "float16")
    assert text.rstrip() == source(isostep.program(isostep.rule("lamb")), "float16").rstrip()
    compile(text, "lamb", "exec")
    found = json.loads(printed(capsys, "show", "lamb", "--source", "numba", "--json"))
    assert found == {"source": source(isostep.program(isostep.rule("lamb")), "float32")}
    error = failed(capsys, "show", "adam", "--source", "hip")
    assert error.startswith("isostep: --source must be one of program, ")
    assert error.endswith(", got 'hip'")
    passes = printed(capsys, "show", "adafactor", "--source", "numba", "--dtype", "bfloat16")
    assert '"""Pass 1 of 3: reduces to ' in passes
    compile(passes, "adafactor", "exec")


def test_a_rule_that_nothing_can_be_printed_of_says_why():
    from isostep.commands import sources
    from isostep.commands.common import UsageError

    def update(p, g, r, t, /):
        column = nm.sum_axis(g * g, axis=0)  # of the pass that stores p
        return -0.1 * g, r + nm.matmul(p, nm.transpose(column))

    first = {"state": ("r",), "init": lambda p, /: nm.sum_axis(p, axis=-1), "ndim": (2,)}
    program = isostep.program(Rule(name="late", update=update, **first).bind())
    with pytest.raises(UsageError) as error:
        sources.text("numba", program, "float32")
    assert str(error.value) == (
        "late has no fused kernel: it works on axes or matrices (matmul, sum_axis, transpose); see --source program"
    )


def test_the_version():
    assert run("--version")[:2] == (0, f"{isostep.__version__}\n")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ("list", "zzz*"),
            f"no rule or solver matches 'zzz*'; known: {', '.join([*isostep.rules(), *isostep.solvers.names()])}",
        ),
        (
            ("show", "lbfgs", "--source", "numba"),
            "lbfgs is a solver, which calls a function: it has no numba of its own",
        ),
        (
            ("show", "lookahead", "--source", "numba"),
            "lookahead is a piece, used by isostep.compose(isostep.pieces.lookahead(...), isostep.rule(...)): "
            "it has no numba of its own",
        ),
        (("show", "nope"), f"unknown rule 'nope'; known: {', '.join(isostep.rules())}"),
        (
            ("show", "formula(g"),
            "formula: a rule's name formula(...) must end in ')', got the end; at 2 in 'g'",
        ),
        (
            ("show", "formula(exp(g"),
            "formula: expected ')' or ',' in exp(...), got the end; at 6 in 'exp(g'",
        ),
        (("show", "adam", "--set", "lr"), "--set takes NAME=VALUE, got 'lr'"),
        (("show", "adam", "--set", "lr=-1"), "adam: lr must be >= 0, got -1"),
        (("show", "adam", "--set", "lr=fast"), "adam: lr must be >= 0, got 'fast'"),
        (
            ("show", "sgd", "--set", "beta=1"),
            "sgd has no hyperparameter 'beta'; it has lr, momentum, dampening, weight_decay, nesterov",
        ),
        (
            ("diff", "adam"),
            "diff takes another rule or --dialects A,B; try isostep diff adam sgd",
        ),
        (
            ("diff", "adam", "--dialects", "torch"),
            "--dialects must be two of adam's dialects (torch, paper, keras, optax, adamd), got 'torch'",
        ),
        (
            ("diff", "sgd", "--dialects", "a,b"),
            "--dialects must be two of sgd's dialects (none), got 'a,b'",
        ),
        (
            ("diff", "lamb", "powersign", "--set", "momentum=1"),
            "neither rule has the hyperparameter 'momentum'; they have lr, betas, eps, weight_decay, "
            "beta, base, sign_internal_decay",
        ),
        (("show", "adam", "--t", "0"), "--t must be an integer >= 1, got 0"),
        (("show", "lbfgs", "--t", "0"), "--t must be an integer >= 1, got 0"),
        (
            ("diff", "adam", "--dialects", "torch,keras", "--set", "dialect=paper"),
            "--dialects names both dialects, got --set dialect=paper too; leave it out",
        ),
        (("show", "adam", "--set", "lr={[]: 1}"), "adam: lr must be >= 0, got '{[]: 1}'"),
        (("show", "adam", "--set", "lr=\udcff"), "adam: lr must be >= 0, got '\\udcff'"),
        (
            ("show", "adam", "--set", "lr=Exponential(0.1)"),
            "Exponential takes value=1.0, gamma, got 'Exponential(0.1)'",
        ),
        (
            ("show", "adam", "--set", "lr=Exponential(gamma={[]: 1})"),
            "'Exponential(gamma={[]: 1})' must have numbers and schedules as arguments",
        ),
    ],
)
def test_errors_are_one_line(capsys, words, text):
    assert failed(capsys, *words) == f"isostep: {text}"


def test_an_error_of_several_lines_is_one_here(capsys):
    said = failed(capsys, "show", "formula(m * x)")
    assert said.startswith("isostep: formula: unknown name 'x'; did you mean ")
    assert said.endswith("; at 5 in 'm * x'")
    deep = failed(capsys, "show", "adam", "--set", f"lr={'-' * 20000}1")
    assert deep.startswith("isostep: adam: lr must be >= 0, got '-----")
    with pytest.raises(SystemExit) as left:
        cli.main(["list", "a", "two\nlines"])
    assert left.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(isostep.formulas.FormulaError, match=r"\n    m \* x\n        \^$"):
        isostep.from_formula("m * x")


def test_ctrl_c_is_silent(capsys, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "report", interrupted)
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "isostep.cli", "show", "adam"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "isostep: No space left on device; choose another place\n"


def test_values_may_be_schedules(capsys):
    word = "sign_internal_decay=LinearInternalDecay(T_max=10)"
    found = json.loads(printed(capsys, "show", "addsign", "--set", word, "--json"))
    assert found["values"]["sign_internal_decay"] == "LinearInternalDecay(T_max=10)"
    assert failed(capsys, "show", "addsign", "--set", "lr=print(1)").startswith(
        "isostep: 'print(1)' is not a schedule; known: "
    )
    word = "lr=LinearInternalDecay(0)"
    assert failed(capsys, "show", "addsign", "--set", word).startswith(
        "isostep: LinearInternalDecay: T_max must be a finite number >= 1, got 0"
    )


def test_diff_of_two_dialects(capsys):
    out = printed(capsys, "diff", "adam", "--dialects", "torch,keras")
    lines = out.splitlines()
    assert lines[0].split() == ["adam", "torch", "adam", "keras"]
    assert any("sqrt(exp_avg_sq_new) / v" in x and " | " in x for x in lines)
    found = json.loads(printed(capsys, "diff", "adam", "--dialects", "torch,keras", "--json"))
    assert found["equal"] is False
    for side, dialect in (("left", "torch"), ("right", "keras")):
        program = str(isostep.program(isostep.rule("adam", dialect=dialect)))
        assert found[side]["program"] == program
        column = 1 + (side == "right")
        assert "\n".join(r[column] for r in found["lines"] if r[column]) == program


def test_diff_of_two_rules(capsys):
    words = ("diff", "sgd", "sgd_hd", "--set", "momentum=0.5", "--set", "hypergrad_lr=0.5")
    found = json.loads(printed(capsys, *words, "--json"))
    assert found["left"]["state"] == found["right"]["state"] == ["momentum_buffer"]
    assert "sum_group" not in found["left"]["program"]
    assert "sum_group" in found["right"]["program"]
    same = json.loads(printed(capsys, "diff", "adamw", "adamw", "--json"))
    assert same["equal"] is True
    assert {mark for mark, _, _ in same["lines"]} == {" "}


def test_doctor_from_the_shell():
    code, out, err = run("doctor", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["packages"]["isostep"]["version"] == isostep.__version__
    assert found["paths"]["numpy:reference"] == {"runs": True, "why": "took a step"}
    assert set(found) == {"packages", "paths", "python", "machine", "threads", "gpu", "kernels"}


ABSENT = "torch jax jaxlib cupy numba llvmlite safetensors matplotlib sklearn rich ml_dtypes"
WITHOUT = f"""
import sys
sys.modules.update(dict.fromkeys({ABSENT.split()!r}))  # importing any of them is an error
from isostep.cli import main
code = [main(words) for words in (["doctor"], ["doctor", "--json"], ["list", "--json"], ["show", "adam"])]
sys.exit(max(code))
"""


COMMANDS = {
    "list adam": lambda found: found[0]["name"] == "adam",
    "show addsign --set lr=0.5": lambda found: found["values"]["lr"] == 0.5,
    "diff sgd adam": lambda found: found["equal"] is False,
    "plot schedule LinearInternalDecay(2) --steps 2": lambda found: (
        found["curves"]["LinearInternalDecay(2)"] == [1.0, 0.5, 0.0]
    ),
    "plot decay --steps 4 -o d.svg": lambda found: len(found["curves"]) == 3,
    "plot surface --rules sgd(lr=0.1) --surface quadratic --steps 1 -o s.html": lambda found: (
        found["paths"][0]["points"] == [[-1.5, 1.0], [-1.35, 0.0]]
    ),
    "train --backend numpy:reference --iterations 2": lambda found: found["iteration"] == 2,
    "plot hypergradient results": lambda found: found["runs"][0]["iterations"] == 2,
    "plot signs results -o s.pdf": lambda found: found["runs"][0]["iterations"] == 2,
    "completion fish": lambda found: "complete -c isostep" in found["script"],
}


def test_every_command_from_the_shell(tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="isostep[train] is not installed")
    pytest.importorskip("matplotlib", reason="isostep[plot] is not installed")
    monkeypatch.chdir(tmp_path)
    for words, holds in COMMANDS.items():
        code, out, err = run(*words.split(), "--json")
        assert (code, err) == (0, ""), words
        assert holds(json.loads(out)), words
    tried = {w.split()[0] for w in COMMANDS} | {"doctor"}  # which has a test of its own
    assert tried == set(completion._positional(commands.parser())[0].choices)


def test_looking_needs_numpy_alone():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert "no" in rows["numpy:fused"].split()[1:2]
    assert "needs the package 'numba', which is not installed" in rows["numpy:fused"]
    assert rows["numpy:reference"].split()[1] == "yes"
    assert rows["threads"].endswith("no fused steps on the CPU without numba")


def test_what_is_missing_names_its_command(capsys, monkeypatch):
    for name in ("isostep.commands.sources", "isostep.backend"):
        known = [
            e for e in sys.modules[name].entry_points(group="isostep.backends") if e.name == "numpy"
        ]
        monkeypatch.setattr(sys.modules[name], "entry_points", lambda group, known=known: known)
    assert failed(capsys, "show", "adam", "--source", "triton") == (
        "isostep: --source must be one of program, numpy, got 'triton'; pip install isostep-torch"
    )
    with pytest.raises(
        isostep.BackendError,
        match="unknown backend 'jax'; installed: numpy; pip install isostep-jax",
    ):
        isostep.backend("jax")


def test_doctor_is_calm_where_nothing_is_installed(capsys, monkeypatch):
    def broken():
        raise ImportError("no such module")

    known = {n: f for n, f in doctor.families().items() if n == "numpy"} | {"other": broken}
    monkeypatch.setattr(sys.modules["isostep.backend"], "families", lambda: known)
    monkeypatch.setattr(doctor, "families", lambda: known)
    monkeypatch.setattr(doctor, "version", lambda name: None)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    out = printed(capsys, "doctor")
    rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert rows["torch"].split()[1:3] == ["not", "installed"]
    assert "cannot be loaded: ImportError: no such module" in rows["other"]
    assert "no NVIDIA driver here" in rows["gpu"]


def test_doctor_knows_cupy_by_the_name_of_any_cuda_version(monkeypatch):
    def installed(name):
        if name == "cupy-cuda12x":
            return "14.2"
        raise doctor.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.importlib.metadata, "version", installed)
    assert doctor.version("cupy") == "14.2"
    assert doctor.version("torch") is None


def test_doctor_says_what_is_wrong(monkeypatch):
    class Wrong(NumpyReference):
        def step(self, rule, params, grads, state):
            return params, state

    assert doctor.trial(Wrong) == "took a wrong step: [1.0, 2.0]"
    assert doctor.trial(lambda: 1 / 0) == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([""], None),
        (["sh"], ["show"]),
        (["show", "power"], ["powersign"]),
        (["show", "adam", "--so"], ["--source"]),
        (["show", "adam", "--source", "p"], ["program"]),
        (["diff", "sgd", "sgd_h"], ["sgd_hd"]),
        (["completion", ""], ["bash", "fish", "zsh"]),
        (["nonsense", ""], []),
    ],
)
def test_what_a_word_may_become(words, expected):
    found = completion.candidates(commands.parser(), words)
    if expected is None:
        expected = sorted(next(iter(completion._positional(commands.parser()))).choices)
    assert found == expected


SHELLS = {
    "bash": "COMP_WORDS=(isostep show add); COMP_CWORD=2; _isostep; printf '%s\\n' ${COMPREPLY[@]}",
    "fish": "complete -C 'isostep show add'",
    # zsh completes only at a prompt: what the function adds is printed instead.
    "zsh": "compdef() { }; compadd() { shift; print -l $@ }; words=(isostep show add); CURRENT=3; _isostep",
}


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_in_a_shell(shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    wrapper = tmp_path / "isostep"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -m isostep.cli "$@"\n')
    wrapper.chmod(0o755)
    stub = completion.SCRIPTS[shell]
    if shell == "zsh":
        stub = stub.replace("compdef _isostep isostep", "")
        text = f"{SHELLS[shell].partition('words=')[0]}\n{stub}\nwords={SHELLS[shell].partition('words=')[2]}"
    else:
        text = f"{stub}\n{SHELLS[shell]}"
    quiet = {"bash": ["--norc"], "fish": ["--no-config"], "zsh": ["-f"]}[shell]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        [shell, *quiet, "-c", text], capture_output=True, text=True, check=False, env=environment
    )
    assert done.stderr == ""
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["addsign"]


def every_command(parser, *words):
    """Each command with its words, those of ``plot`` too."""
    for action in completion._positional(parser):
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield (*words, name), command
                yield from every_command(command, *words, name)


def test_every_command_has_an_example_that_parses():
    found = dict(every_command(commands.parser()))
    assert {("plot", k) for k in ("surface", "schedule", "decay", "hypergradient", "signs")} < set(
        found
    )
    for words, command in found.items():
        example = command.epilog.removeprefix("Example: ").removeprefix("source <(").rstrip(")")
        tried = shlex.split(example)
        assert tuple(tried[1 : 1 + len(words)]) == words
        commands.parser().parse_args(tried[1:])
        if words != ("plot",):
            assert "--json" in command._option_string_actions


def test_names_of_settings(capsys):
    """``momentum`` is sgd with momentum, wherever a rule is named."""
    shown = printed(capsys, "show", "momentum", "--source", "program")
    rule = isostep.rule("sgd", momentum=0.9)
    assert shown.rstrip() == str(isostep.program(rule))
    assert repr(isostep.rule("momentum", lr=0.25)) == repr(rule.replace(lr=0.25))
    assert isostep.rule("momentum", momentum=0.5).values["momentum"] == 0.5
    assert isostep.rule("nesterov").values["nesterov"] is True
    assert isostep.rule("diffrgrad").values["rectify"] is True
    assert isostep.rule("amsbound").state_names[-1] == "max_exp_avg_sq"
    found = json.loads(printed(capsys, "diff", "sgd", "momentum", "--json"))
    assert (found["left"]["state"], found["right"]["state"]) == ([], ["momentum_buffer"])
    assert [
        r if isinstance(r, str) else r.values["momentum"]
        for r in common.rules_of("momentum,momentum(lr=1)")
    ] == ["momentum", 0.9]


def test_known_names_are_nobody_elses():
    others = [n for r in isostep.rules() for n in isostep.definition(r).known_as]
    assert len(set(others)) == len(others)
    assert not set(others) & set(isostep.rules())
    for name in others:
        isostep.rule(name)


def test_a_table_on_a_terminal_is_richs(capsys, monkeypatch):
    pytest.importorskip("rich", reason="isostep[cli] is not installed")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    common.print_table(["name", "[b]"], [["one", "[red]two"]])
    out = capsys.readouterr().out
    assert "[red]two" in out
    assert "─" in out


def test_what_the_memory_does_not_hold_is_one_line(capsys, monkeypatch):
    def endless():
        raise MemoryError("7 TiB")

    monkeypatch.setattr(doctor, "report", endless)
    assert failed(capsys, "doctor") == (
        "isostep: the memory here is too small for this: 7 TiB; ask for less"
    )


@pytest.mark.parametrize("words", ["list", "list --json", "show adam"])
def test_nobody_need_listen(words):
    script = f"{sys.executable} -m isostep.cli {words} >&-; echo $?"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("0\n", "")
    script = f"{sys.executable} -m isostep.cli {words} nope 2>&-; echo $?"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "2\n"


def test_a_reader_that_stops_early_is_no_error():
    script = f"{sys.executable} -m isostep.cli show adam | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "0"
