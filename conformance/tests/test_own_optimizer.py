"""The README's example: torch.optim.AdamW, which nobody wrote for isostep, held to the rule; and with a slip."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from isostep_conformance import select
from isostep_conformance.gaps import read
from isostep_conformance.paths import Path as Found
from isostep_conformance.session import Session

torch = pytest.importorskip("torch")
PAGE = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
(SOURCE,) = (block for block in BLOCKS if "class Mine" in block)


@pytest.fixture
def example() -> dict[str, Any]:
    made: dict[str, Any] = {}
    exec(SOURCE, made)
    return made


def session(example: dict[str, Any]) -> Session:
    family = example["family"]
    found = Session([Found("mine", family.make("default"), gaps=read(family.gaps()))])
    chosen = [
        u for u in select.units(found.paths, rules=["adamw"]) if u.case.subject.id == "adamw.6"
    ]
    for unit in chosen:
        found.check_unit(unit)
    for unit, check in select.contracts(select.units(found.paths, rules=["adamw"])):
        if unit.case.subject.index == 0:
            found.check_contract(unit, check)
    return found


def failures(found: Session) -> list[str]:
    return [f for o in found.outcomes for f in o.failures]


def test_it_passes_but_for_the_gaps_that_it_declares(example: dict[str, Any]) -> None:
    found = session(example)
    assert not failures(found)
    assert any(o.gap for o in found.outcomes)


def test_a_slip_in_it_is_found(example: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.optim.AdamW

    def slipped(params: Any, **options: Any) -> Any:
        return real(params, **{**options, "eps": options["eps"] * 1.01})

    monkeypatch.setattr(torch.optim, "AdamW", slipped)
    assert failures(session(example))
