from __future__ import annotations

import json
from pathlib import Path

import pytest

from isostep_conformance import cli, report, select
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


def test_missing_paths_are_counted_out_loud() -> None:
    made = Session([Found("cupy:raw", missing="no CUDA device")])
    assert header(made)[-1] == "paths not run: 1: cupy:raw (no CUDA device)"


def test_an_empty_run_is_an_error() -> None:
    with pytest.raises(select.SelectionError, match="nothing to run"):
        select.units([Found("cupy:raw", missing="no CUDA device")])
    assert Session([]).faults() == ["nothing was run"]


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("old")
    with pytest.raises(TypeError):
        report.write(file, None)  # type: ignore[arg-type]
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_the_sample_has_every_rule_on_every_path_in_float32() -> None:
    from isostep.backends.numpy import NumpyReference
    from isostep_conformance.cases import names

    chosen = select.units([Found("a", NumpyReference()), Found("b", NumpyReference())])
    for path in ("a", "b"):
        assert {
            u.case.subject.name for u in chosen if u.path == path and u.case.dtype == "float32"
        } == set(names())
    assert {u.case.dtype for u in chosen} == {"float64", "float32", "bfloat16", "float16"}
