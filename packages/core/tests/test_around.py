"""docs/around-the-rule.md: its examples run, and its tables name every schedule and piece."""

import re
from pathlib import Path

import isostep

PAGE = Path(__file__).parents[3] / "docs" / "around-the-rule.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_the_examples_run():
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 9
    names = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)


def test_the_table_names_every_schedule():
    known = {n for n in isostep.schedules.__all__ if not n.endswith(("State", "TorchPort"))}
    assert known - {"Schedule"} <= set(re.findall(r"\w+", TEXT))


def test_the_table_names_every_piece():
    assert set(isostep.pieces.registry.names()) <= set(re.findall(r"\w+", TEXT))
