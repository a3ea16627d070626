from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from wrong_steps import SomeKernels

import isostep
from isostep.backends.numpy import NumpyReference
from isostep.domains import Real
from isostep.rule import Rule
from isostep_conformance import cases, cli, paths, report, select, session
from isostep_conformance.budget import Tally
from isostep_conformance.paths import Path as Found
from isostep_conformance.session import Session, header


def test_a_run_writes_both_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, plain = tmp_path / "r.html", tmp_path / "r.json"
    arguments = [
        "--backend",
        "numpy:reference",
        "--rule",
        "addsign",
        "--dtype",
        "float32",
        "--html",
        str(page),
        "--json",
        str(plain),
    ]
    assert cli.main([*arguments, "--mutants"]) == 0
    out = capsys.readouterr().out
    assert "paths not run: 0" in out
    assert "kill rate 100.00%" in out
    found = json.loads(plain.read_text())
    assert found["mutants"]["survivors"] == []
    assert found["faults"] == []
    assert all(o["passed"] for o in found["outcomes"])
    text = page.read_text()
    assert "all passed" in text
    assert "http" not in text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.html", "r.json"]


def test_several_processes_find_what_one_finds(tmp_path: Path) -> None:
    arguments = ["--backend", "numpy:reference", "--rule", "sgd", "--dtype", "float32"]
    found = []
    for count in ("1", "2"):
        file = tmp_path / f"{count}.json"
        assert cli.main([*arguments, "--processes", count, "--json", str(file)]) == 0
        found.append(json.loads(file.read_text()))
    assert found[0]["outcomes"]
    assert found[0] == found[1]


def test_a_number_of_processes_is_at_least_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--processes", "0"])
    assert caught.value.code == 2
    assert "must be a whole number from 1 on, got '0'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--backend", "tpu"], "unknown backend 'tpu'; installed: "),
        (["--backend", "numpy:gpu"], "numpy has no path 'gpu'"),
        (["--backend", "numpy:reference", "--rule", "adamax9"], "unknown rule 'adamax9'; known: "),
        (["--backend", "numpy:reference", "--dtype", "int8"], "unknown dtype 'int8'; known: "),
        (
            ["--json", "/no/such/folder/x.json"],
            "the folder of /no/such/folder/x.json does not exist",
        ),
    ],
)
def test_bad_arguments_exit_with_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("name", [".", "/proc/x.json"])
def test_a_place_that_cannot_be_written_is_said_before_the_run(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--backend", "numpy:reference", "--rule", "sgd", "--json", name]
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"isostep-conformance: {name} ")
    assert err.endswith("; choose another place\n")


def _raising(error: Exception) -> Callable[..., Any]:
    def function(*_: object) -> Any:
        raise error

    return function


def test_a_broken_package_is_counted_and_named_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from isostep.backends.numpy import NumpyReference

    made = {"default": NumpyReference}
    broken: dict[str, Callable[[], Any]] = {
        "costly": lambda: isostep.Family("costly", {"default": _raising(ValueError("no licence"))}),
        "wordy": lambda: isostep.Family(
            "wordy", made, gaps=lambda: [{"word": "maybe", "reason": "x"}]
        ),
        "gone": lambda: isostep.Family("gone", made, gaps=_raising(ImportError("gone"))),
        "exc": _raising(RuntimeError("my plug-in is broken")),
    }
    monkeypatch.setattr(sys.modules["isostep.backend"], "families", lambda: broken)
    monkeypatch.setattr(paths, "families", lambda: broken)
    words = {
        "costly": "costly:default cannot be made: ValueError: no licence; mend that package",
        "wordy": "the gaps of wordy cannot be read: GapError: a gap's word must be one of notimpl, ",
        "gone": "the gaps of gone cannot be read: ImportError: gone; mend its support.py",
        "exc": "backend 'exc' is installed but cannot be loaded: RuntimeError: my plug-in is broken",
    }
    found = {p.name: p.missing for p in paths.installed()}
    assert list(found) == sorted(words)
    for name, text in words.items():
        assert found[name].startswith(text)
        assert cli.main(["--backend", name, "--rule", "sgd"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"isostep-conformance: {text}")
        assert err.count("\n") == 1


def test_a_wrong_file_is_an_error_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fault = "isostep.rules.half cannot be imported: SyntaxError"
    monkeypatch.setattr(select, "broken", lambda: {"half": fault})
    base = ["--backend", "numpy:reference", "--dtype", "float32"]
    for arguments in ([], ["--rule", "half"]):
        assert cli.main([*base, *arguments]) == 2
        assert capsys.readouterr().err == f"isostep-conformance: {fault}\n"
    assert cli.main([*base, "--rule", "signsgd"]) == 0


def test_a_rule_that_cannot_be_traced_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def update(p: Any, g: Any, t: Any, /, *, lr: Any) -> Any:
        return -lr * g if lr > 0.5 else -g

    rule = Rule(name="branchy", update=update, hyper={"lr": Real(0.1)})
    subject = cases.subject_of("branchy", 0, rule.bind())
    monkeypatch.setattr(select, "subjects", lambda: (subject,))
    assert cli.main(["--backend", "numpy:reference", "--rule", "branchy"]) == 2
    _, err = capsys.readouterr()
    assert err.splitlines()[-1].startswith("isostep-conformance: branchy: <gt on ")


def test_a_case_that_rounding_decides_is_nobody_elses() -> None:
    case = next(c for c in cases.cases(("float32",)) if c.subject.name == "sgd")
    tally = Tally(elements=100, exempt=16)
    (text,) = session._overexempt(tally, case, "denormals")
    assert text == (
        f"{case.id}, denormals, teacher-forced: the case is bad, whatever the backend: 16.0% of its elements hang on "
        "a comparison that rounding decides, at most 15% may; see 'Comparisons' in docs/contributing.md"
    )
    docs = Path(__file__).parents[2] / "docs" / "contributing.md"
    assert "**Comparisons.**" in docs.read_text(encoding="utf-8")


def test_missing_paths_are_counted_out_loud() -> None:
    made = Session([Found("cupy:raw", missing="no CUDA device")])
    assert header(made)[-1] == "paths not run: 1: cupy:raw (no CUDA device)"


def test_an_empty_run_is_an_error() -> None:
    with pytest.raises(select.SelectionError, match="nothing to run"):
        select.units([Found("cupy:raw", missing="no CUDA device")])
    assert Session([]).faults() == ["nothing was run"]


def test_a_backend_with_kernels_for_some_settings_has_them_tested() -> None:
    found = Session([Found("mine", SomeKernels())])
    chosen = select.units(found.paths)
    firsts = {u.case.subject.id for u in chosen if u.case.subject.name == "adam" and u.first}
    assert firsts == {"adam.0", "adam.6"}  # with amsgrad, without
    checked = {u.case.subject.id for u, _ in select.contracts(chosen)}
    assert firsts <= checked
    (unit,) = (u for u in chosen if u.case.subject.id == "adam.6")
    assert unit.case.dtype == "float32"
    assert "odd" in unit.scenarios
    assert any(o.failures for o in found.check_unit(unit))


class Speechless(NumpyReference):
    """Cannot say how it runs one of the rules."""

    def path(self, rule: Any) -> str:
        if rule.name == "adam":
            message = "no kernels"
            raise NotImplementedError(message)
        return super().path(rule)


def test_a_rule_that_a_backend_cannot_speak_of_does_not_stand_in_the_way_of_others() -> None:
    chosen = select.units([Found("mine", Speechless())])
    assert {u.case.subject.id for u in chosen if u.case.subject.name == "adam" and u.first} == {
        "adam.0"
    }


def test_of_a_rule_that_is_named_every_case_runs_on_a_few_paths() -> None:
    here = [Found("mine", NumpyReference())]
    chosen = select.units(here, rules=["adamw"])
    wanted = {s.id for s in cases.of_rule("adamw")}
    assert {u.case.subject.id for u in chosen if u.case.dtype == "float32"} == wanted
    assert len(chosen) < select.extent(here, ["adamw"]) == 4 * len(wanted)


OWN_RULE = """
from isostep import parts
from isostep.rule import Rule

RULE = Rule(name="own", update=lambda p, g, t, /, *, lr: -lr * (1 + t % 3) * g, hyper={"lr": parts.lr(0.1)})
"""
OWN_PIECE = """
from isostep.rule import Piece

PIECE = Piece(name="twice", before=lambda p, g, t, /: 2 * g)
"""


def test_a_rule_or_piece_in_a_file_of_its_own_is_tested(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rule, piece = tmp_path / "own.py", tmp_path / "twice.py"
    rule.write_text(OWN_RULE)
    piece.write_text(OWN_PIECE)
    arguments = ["--backend", "numpy:reference", "--dtype", "float32"]
    assert cli.main([*arguments, "--rule", str(rule), "--mutants"]) == 0
    assert "kill rate 100.00%" in capsys.readouterr().out
    subjects = select.subjects_of((str(piece),))
    assert {s.name for s in subjects} == {"twice+adamw", "twice+lamb"}
    assert cli.main([*arguments, "--rule", str(tmp_path / "none.py")]) == 2
    assert "there is no file" in capsys.readouterr().err
    rule.with_name("broken.py").write_text("RULE = 1 +")
    assert cli.main([*arguments, "--rule", str(tmp_path / "broken.py")]) == 2
    assert "cannot be imported: SyntaxError" in capsys.readouterr().err


def test_files_of_one_name_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deeper").mkdir()
    for file, text in (
        ("own.py", OWN_RULE),
        ("deeper/own.py", OWN_RULE),
        ("sgd.py", OWN_RULE.replace('"own"', '"sgd"')),
    ):
        (tmp_path / file).write_text(text)
    monkeypatch.chdir(tmp_path)
    assert len(select.subjects_of(("own.py", "./own.py"))) == len(select.subjects_of(("own.py",)))
    for given, name in ((("own.py", "deeper/own.py"), "own"), (("sgd.py",), "sgd")):
        with pytest.raises(
            select.SelectionError, match=f"{given[-1]}: {name} is the name of another"
        ):
            select.subjects_of(given)


def test_equivalents_of_rules_here_are_not_asked_of_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_lamb.py").write_text(OWN_RULE.replace('"own"', '"own_lamb"'))
    arguments = ["--backend", "numpy:reference", "--dtype", "float32", "--mutants"]
    assert cli.main([*arguments, "--rule", str(tmp_path / "own_lamb.py")]) == 0, capsys.readouterr()


def test_a_sample_says_that_it_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--backend", "numpy:reference", "--rule", "signsgd"]
    assert cli.main(arguments) == 0
    assert "a sample: --full runs all of them" in capsys.readouterr().out
    assert cli.main([*arguments, "--full"]) == 0
    assert "a sample" not in capsys.readouterr().out


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("old")
    with pytest.raises(TypeError):
        report.write(file, None)  # type: ignore[arg-type]
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_the_sample_has_every_rule_on_every_path_in_float32() -> None:
    from isostep_conformance.cases import names

    chosen = select.units([Found("a", NumpyReference()), Found("b", NumpyReference())])
    for path in ("a", "b"):
        assert {
            u.case.subject.name for u in chosen if u.path == path and u.case.dtype == "float32"
        } == set(names())
    assert {u.case.dtype for u in chosen} == {"float64", "float32", "bfloat16", "float16"}
