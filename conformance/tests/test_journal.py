"""A run that was stopped goes on where it was, and does again what has changed since."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from isostep_conformance import cli, journal

ARGUMENTS = ["--backend", "numpy:reference", "--rule", "signsgd", "--mutants"]


def finds(tmp_path: Path, name: str, *more: str) -> dict[str, object]:
    file = tmp_path / f"{name}.json"
    assert cli.main([*ARGUMENTS, "--json", str(file), *more]) == 0
    return json.loads(file.read_text())


def test_what_a_journal_holds_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "run.journal"
    whole = finds(tmp_path, "whole", "--journal", str(kept))
    lines = kept.read_text().splitlines(keepends=True)
    assert len(lines) > 2

    # Stopped after the first line, in the middle of the second.
    kept.write_text(lines[0] + lines[1][:50])
    capsys.readouterr()
    assert finds(tmp_path, "resumed", "--journal", str(kept)) == whole
    todo = len(lines) - 1
    assert f"{todo}/{todo} cases" in capsys.readouterr().err
    finds(tmp_path, "again", "--journal", str(kept))
    assert "cases" not in capsys.readouterr().err

    # Other sources: everything is done again, and what the file holds of the old ones is let be.
    monkeypatch.setattr(journal, "_shared", lambda: "other sources")
    assert finds(tmp_path, "changed", "--journal", str(kept)) == whole
    assert f"{len(lines)}/{len(lines)} cases" in capsys.readouterr().err


def test_what_was_found_until_it_was_stopped_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(done: int, *_: object) -> None:
        if done == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_progress", stop)
    file, kept = tmp_path / "found.json", tmp_path / "run.journal"
    arguments = ["--backend", "numpy:reference", "--rule", "adamw", "--json", str(file)]
    assert cli.main([*arguments, "--journal", str(kept)]) == 1
    assert json.loads(file.read_text())["outcomes"]
    assert len(kept.read_text().splitlines()) == 2
    said = re.search(r"^stopped, with (\d+) cases left$", capsys.readouterr().out, re.MULTILINE)
    assert said
    assert int(said[1]) > 0


@pytest.mark.whole
def test_gaps_and_equivalents_come_back_as_they_were(tmp_path: Path) -> None:
    arguments = ["--backend", "jax:jit", "--rule", "signsgd", "--dtype", "float32"]
    kept, first, second = (tmp_path / n for n in ("run.journal", "first.json", "second.json"))
    for file in (first, second):
        assert cli.main([*arguments, "--journal", str(kept), "--json", str(file)]) == 0
    assert json.loads(first.read_text()) == json.loads(second.read_text())
    assert any(o["gap"] for o in json.loads(second.read_text())["outcomes"])


def test_a_file_that_is_no_journal_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("dear diary\n{}\n")
    assert cli.main([*ARGUMENTS, "--journal", str(notes)]) == 2
    assert (
        "line 1 is no line of a journal; name another file or remove it" in capsys.readouterr().err
    )
    assert notes.read_text() == "dear diary\n{}\n"
