"""The census's page: it is what the report says, and speaks of every optimizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")  # the collections are torch's, and so is what imports them

from isostep_conformance.identify.table import page

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "conformance" / "reports" / "census.json"


def test_the_page_is_the_reports():
    census = json.loads(REPORT.read_text(encoding="utf-8"))
    written = (ROOT / "docs" / "census.md").read_text(encoding="utf-8").splitlines()
    assert list(page(census)) == written, "run nox -s census"
    for entry in census["optimizers"]:
        assert entry["optimizer"].rpartition(".")[2] in "\n".join(written)


def finding(name: str, off: float = 1e-14, slips: tuple[str, ...] = ()) -> dict[str, object]:
    return {
        "name": name,
        "choices": {},
        "rule": name,
        "off": off,
        "far": off,
        "first": 1,
        "slips": list(slips),
    }


def test_each_kind_of_answer_has_its_row():
    def entry(name: str, verdict: str, **more: object) -> dict[str, object]:
        lists = {"same": [], "rounded": [], "parted": [], "slipped": [], "nearest": []}
        own = {"optimizer": f"torch.optim.{name}", "verdict": verdict, "own": name.lower()}
        return {**lists, **own, "settings": {"foreach": "False"}, **more}

    entries = [
        entry("Adam", "same", same=[finding("adam")]),
        entry("Yogi", "same", same=[finding("yogi")], settings={"hard": "True"}),
        entry("NAdam", "rounded", rounded=[finding("nadam", 2e-8)]),
        entry("Adan", "slip", slipped=[finding("adan", slips=("a | b", "c"))]),
        entry("Lamb", "none", slipped=[finding("lamb", 1e-3, ("a",))]),
        entry("Muon", "none", nearest=[finding("muon", 0.04)]),
        entry("Nero", "none", nearest=[finding("adam", 0.99)]),
        entry("Odd", "none", own=None),
        {"optimizer": "torch.optim.LBFGS", "verdict": "refused", "why": "closure"},
    ]
    rows = "\n".join(page({"optimizers": entries, "versions": {"torch": "9.9"}}))
    for row in (
        "## torch.optim (torch 9.9)",
        "| Adam | `adam` |  |",
        "| Yogi | `yogi` | with `hard=True` |",
        "| NAdam | `nadam` | to 2e-08 |",
        "| Adan | not `adan` | slip: `a \\| b` and `c` |",
        "| Lamb | not `lamb` | slip: `a`, which leaves 1e-03 |",
        "| Muon | not `muon` | nearest: `muon`, 4e-02 off |",
        "| Nero | not `nero` | nothing here is like it |",
        "nor is there one of their name: Odd.",
        "is needed): LBFGS.",
    ):
        assert row in rows
