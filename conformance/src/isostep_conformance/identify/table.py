"""The census as a page: who takes whose step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from isostep_conformance.identify.answer import ROUNDED
from isostep_conformance.identify.census import COLLECTIONS
from isostep_conformance.identify.explain import LIKE
from isostep_conformance.identify.trial import LONGER, SAME, STEPS

Entry = Mapping[str, Any]

INTRODUCTION = f"""\
# Who takes whose step

Names promise a rule; this is what the steps say. `isostep-identify` gave every optimizer of these collections
numbers that are told apart, let it take {STEPS} steps in float64, and compared them with those of every rule here, in
every dialect; what fits was run again, over {LONGER} steps that are harder. Written by `nox -s census`, never by hand;
`conformance/reports/census.json` has the settings and figures. A rule that needs more than gradients is not asked
about, and an option that has no name here is left at its default: where an optimizer is no rule's, its options may
make it one.
"""

WORDS = {
    "same": f"take the steps of a rule here, within {SAME:g} of each step",
    "rounded": f"do so with numbers of theirs in float32, within {ROUNDED:g} of each step",
    "slip": "take the steps of a rule here but for one or two slips",
    "none": "take those of no rule here",
    "refused": "could not be asked",
}


def page(census: Mapping[str, Any]) -> Iterator[str]:
    """The page's lines."""
    entries = census["optimizers"]
    yield from INTRODUCTION.splitlines()
    yield ""
    counts = Counter(e["verdict"] for e in entries)
    told = [f"{counts[v]} {words}" for v, words in WORDS.items() if counts[v]]
    yield f"Of {len(entries)} optimizers {'; '.join(told)}."
    places: dict[str, list[Entry]] = {}
    for e in entries:
        places.setdefault(e["optimizer"].rpartition(".")[0], []).append(e)
    for module, members in places.items():
        yield from _collection(module, members, census["versions"])


def _collection(module: str, members: list[Entry], versions: Mapping[str, str]) -> Iterator[str]:
    collection = next(c for c in COLLECTIONS if c.module == module)
    version = versions[collection.distribution]
    yield from ("", f"## {module} ({collection.distribution} {version})", "")
    yield from ("| optimizer | takes the steps of | |", "|---|---|---|")
    given = {name for name, _ in collection.settings}
    others, refused = [], []
    for e in members:
        name = e["optimizer"].rpartition(".")[2]
        if e["verdict"] == "refused":
            refused.append(name)
        elif e["verdict"] == "none" and not e["own"]:
            others.append(name)
        else:
            yield f"| {name} | {' | '.join(_told(e, given))} |"
    if others:
        yield from ("", f"Of no rule here, nor is there one of their name: {', '.join(others)}.")
    if refused:
        yield from (
            "",
            f"Not asked (a closure, a mask, another argument or device is needed): {', '.join(refused)}.",
        )


def _told(e: Entry, given: set[str]) -> tuple[str, str]:
    """Which rule, and what there is to say about it; ``given`` are settings that all of the collection got."""
    if e["verdict"] in ("same", "rounded"):
        best = e[e["verdict"]][0]
        flags = [
            f"{n}={v}"
            for n, v in e["settings"].items()
            if v in ("True", "False") and n not in given
        ]
        note = f"with `{flags[0]}`" if flags else ""
        if e["verdict"] == "rounded":
            note = "; ".join(filter(None, (note, f"to {best['off']:.0e}")))
        return _named(best), note
    if e["parted"]:
        best = e["parted"][0]
        step, shape = best["parted"]
        place = f"an array of shape {tuple(shape)}" if shape else "a number without axes"
        return f"not {_named(best)}", f"its steps until step {step} of the harder run, in {place}"
    if e["slipped"]:
        best = e["slipped"][0]
        slips = " and ".join(f"`{_cell(s)}`" for s in best["slips"])
        left = f", which leaves {best['off']:.0e}" if best["off"] > ROUNDED else ""
        return f"not {_named(best)}", f"slip: {slips}{left}"
    near = e["nearest"][0] if e["nearest"] else None
    if near is None or near["far"] is None or near["far"] > LIKE:
        return f"not `{e['own']}`", "nothing here is like it"
    return f"not `{e['own']}`", f"nearest: {_named(near)}, {near['far']:.0e} off"


def _named(finding: Entry) -> str:
    """A rule with what makes it this one."""
    chosen = [f"{n}={v!r}" for n, v in finding["choices"].items()]
    return f"`{finding['name']}({', '.join(chosen)})`" if chosen else f"`{finding['name']}`"


def _cell(text: str) -> str:
    """Text in a table's cell."""
    return text.replace("|", "\\|")
