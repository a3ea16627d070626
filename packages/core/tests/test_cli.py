"""The command line: what it prints, as text and as JSON, and that an error is one line and exit code 2."""

import json
import subprocess
import sys

import pytest

import isostep
from isostep import cli


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
    assert [line.split()[0] for line in out.splitlines()] == isostep.rules()
    assert ["addsign", "2017", "sign"] in [line.split()[:3] for line in out.splitlines()]


def test_list_takes_a_pattern(capsys):
    out = printed(capsys, "list", "*sign")
    assert [line.split()[0] for line in out.splitlines()] == ["addsign", "powersign"]


def test_list_as_json(capsys):
    rows = json.loads(printed(capsys, "list", "--json"))
    assert [r["name"] for r in rows] == isostep.rules()
    (row,) = (r for r in rows if r["name"] == "addsign")
    assert row == {
        "name": "addsign",
        "year": 2017,
        "family": "sign",
        "title": isostep.definition("addsign").doc.splitlines()[0].rstrip("."),
        "paper": "Bello et al., Neural Optimizer Search with Reinforcement Learning",
        "arxiv": "1709.07417",
    }


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
    error = failed(capsys, "show", "muon", "--source", "numba")
    assert error == (
        "isostep: muon has no fused kernel: it works on axes or matrices (matmul, transpose); see --source program"
    )


def test_the_version():
    assert run("--version")[:2] == (0, f"{isostep.__version__}\n")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("list", "zzz*"), f"no rule matches 'zzz*'; known: {', '.join(isostep.rules())}"),
        (("show", "nope"), f"unknown rule 'nope'; known: {', '.join(isostep.rules())}"),
        (("show", "adam", "--set", "lr"), "--set takes NAME=VALUE, got 'lr'"),
        (("show", "adam", "--set", "lr=-1"), "adam: lr must be >= 0, got -1"),
        (("show", "adam", "--set", "lr=fast"), "adam: lr must be >= 0, got 'fast'"),
        (
            ("show", "sgd", "--set", "beta=1"),
            "sgd has no hyperparameter 'beta'; it has lr, momentum, dampening, weight_decay, nesterov",
        ),
        (("show", "adam", "--t", "0"), "--t must be an integer >= 1, got 0"),
    ],
)
def test_errors_are_one_line(capsys, words, text):
    assert failed(capsys, *words) == f"isostep: {text}"


def test_errors_from_the_shell_have_exit_code_2():
    assert run("show", "adamm") == (
        2,
        "",
        f"isostep: unknown rule 'adamm'; did you mean 'adam'? known: {', '.join(isostep.rules())}\n",
    )
    code, out, err = run("frobnicate")
    assert (code, out) == (2, "")
    assert "invalid choice: 'frobnicate'" in err


def test_a_reader_that_stops_early_is_no_error():
    script = f"{sys.executable} -m isostep.cli show adam | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "0"
