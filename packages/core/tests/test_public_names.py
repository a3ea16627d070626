"""What is public is on a written page, and what a part follows and departs from in its docstring."""

import importlib
import re
from pathlib import Path

import pytest

import isostep

ROOT = Path(__file__).parents[3]
PAGES = [
    ROOT / "README.md",
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("packages/*/README.md"),
    ROOT / "conformance/README.md",
]
WORDS = {
    w
    for p in PAGES
    if p.name != "CHANGELOG.md"
    for w in re.findall(r"\w+", p.read_text(encoding="utf-8"))
}
PACKAGES = [
    "isostep",
    *(
        pytest.param(name, marks=pytest.mark.whole)
        for name in ("isostep_torch", "isostep_jax", "isostep_cupy")
    ),
]
PARTS = [
    *map(isostep.definition, isostep.rules()),
    *(isostep.pieces.registry[name] for name in isostep.pieces.registry.names()),
    *(isostep.solvers.registry[name] for name in isostep.solvers.names()),
]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_on_a_page(package):
    public = set(importlib.import_module(package).__all__) - {"__version__"}
    assert sorted(public - WORDS) == []


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_a_part_says_what_it_follows_and_where_it_departs(part):
    said = re.findall(r"^(Follows|Departs):", part.doc, re.MULTILINE)
    assert said == ["Follows", "Departs"]
    assert all(domain.doc for domain in part.hyper.values())


@pytest.mark.parametrize(
    "field", [f for f in isostep.Rule.__dataclass_fields__ if f not in ("name", "hyper", "update")]
)
def test_every_field_of_a_rule_is_on_the_page_about_rules(field):
    page = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    assert f"`{field}=" in page
