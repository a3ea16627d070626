"""Parameter groups by name: weight decay, learning rates and layer decay for the parameters that patterns match."""

from __future__ import annotations

import fnmatch
import importlib.util
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch


def param_groups(
    model: torch.nn.Module | Iterable[tuple[str, torch.Tensor]],
    *,
    lr: float | None = None,
    weight_decay: float | None = None,
    no_decay: Iterable[str] = (),
    lr_by: Mapping[str, float] | None = None,
    layer_decay: float | None = None,
    show: bool = True,
) -> list[dict[str, Any]]:
    """Named groups of a model's trainable parameters, for any optimizer; a table of what matched is printed.

    Patterns are of the shell (``fnmatch``: ``*.bias``, ``encoder.*``), matched against whole names.

    - ``weight_decay`` is every parameter's, but 0 for those that a pattern of ``no_decay`` matches
    - ``lr_by`` multiplies ``lr`` for what a pattern matches; of several that match, the last
    - ``layer_decay`` multiplies it by ``layer_decay ** (depth - k)`` in layer k, layers being told apart by the first
      number in a name (``blocks.7.attn.weight``): parameters without one in front of the first numbered layer are
      layer 0, those behind it the top, ``depth``, with factor 1 (the layer-wise decay of BEiT and ELECTRA)

    Args:
        model: a module, or pairs of name and parameter; those that need no gradient are left out.
        lr: the learning rate that factors multiply; required with ``lr_by`` or ``layer_decay``.
        show: print the table (with rich if it is installed).

    Raises:
        ValueError: a pattern matches nothing; no trainable parameter; factors without ``lr``, or that are negative.
        TypeError: parameters without names.
    """
    named = list(model.named_parameters() if isinstance(model, torch.nn.Module) else model)
    if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in named):
        message = "param_groups needs a module or named parameters (module.named_parameters()), got some without names"
        raise TypeError(message)
    params = [(n, p) for n, p in named if p.requires_grad]
    if not isinstance(lr_by or {}, Mapping):
        message = f"param_groups: lr_by must be a dict of pattern: factor, got {lr_by!r}"
        raise TypeError(message)
    _check_number("lr", lr, "a finite number >= 0", lambda x: x >= 0)
    if not callable(weight_decay):  # a schedule, which nothing multiplies here
        _check_number("weight_decay", weight_decay, "a finite number >= 0", lambda x: x >= 0)
    factors = {"layer_decay": layer_decay, **{f"lr_by[{q!r}]": f for q, f in (lr_by or {}).items()}}
    for what, factor in factors.items():
        _check_number(what, factor, "a finite number > 0", lambda x: x > 0)
    names = [n for n, _ in params]
    if not params:
        message = "param_groups: the model has no parameter that requires a gradient"
        raise ValueError(message)
    factors_by = dict(lr_by or {})
    if lr is None and (factors_by or layer_decay is not None):
        message = "param_groups: lr_by and layer_decay multiply lr, got lr=None; pass lr"
        raise ValueError(message)
    no_decay = [no_decay] if isinstance(no_decay, str) else list(no_decay)
    matched = {
        (option, pattern): set(fnmatch.filter(names, pattern))
        for option, patterns in (("no_decay", no_decay), ("lr_by", factors_by))
        for pattern in patterns
    }
    for (option, pattern), found in matched.items():
        if not found:
            message = (
                f"param_groups: pattern {pattern!r} of {option} matches none of {len(names)} parameters; "
                f"names look like {names[0]!r}"
            )
            raise ValueError(message)
    layers = _layers(names) if layer_decay is not None else {}
    groups: dict[tuple[float | None, float], dict[str, Any]] = {}
    notes: dict[tuple[float | None, float], set[str]] = {}
    for n, p in params:
        spared = [q for q in no_decay if n in matched["no_decay", q]]
        scaled = [q for q in factors_by if n in matched["lr_by", q]]
        factor = factors_by[scaled[-1]] if scaled else 1.0
        if layer_decay is not None:
            factor *= layer_decay ** (max(layers.values()) - layers[n])
        decay = None if weight_decay is None and not spared else 0.0 if spared else weight_decay
        key = (decay, factor)
        group = groups.setdefault(key, {"params": []})
        group["params"].append((n, p))
        if decay is not None:
            group["weight_decay"] = decay
        if lr is not None:
            group["lr"] = lr * factor
        notes.setdefault(key, set()).update(spared, scaled[-1:])
    if show:
        _print(groups, notes)
    return list(groups.values())


def _check_number(what: str, value: Any, allowed: str, fits: Callable[[float], bool]) -> None:
    """Raise unless an option is None or a number of its range."""
    message = f"param_groups: {what} must be {allowed}, got {value!r}"
    if value is None:
        return
    if isinstance(value, bool | str) or not hasattr(value, "__float__"):
        raise TypeError(message)
    if not (math.isfinite(value) and fits(float(value))):
        raise ValueError(message)


def _layers(names: list[str]) -> dict[str, int]:
    """The layer of each name: its first number, after 0 for what comes before any and before the top."""
    numbers = [int(m[1]) if (m := re.search(r"(?:^|\.)(\d+)(?:\.|$)", n)) else None for n in names]
    first = next((k for k, x in enumerate(numbers) if x is not None), len(names))
    top = 2 + max((x for x in numbers if x is not None), default=-1)
    return {
        n: x + 1 if x is not None else 0 if k < first else top
        for k, (n, x) in enumerate(zip(names, numbers, strict=True))
    }


def _print(groups: Mapping[Any, dict[str, Any]], notes: Mapping[Any, set[str]]) -> None:
    head = ("group", "tensors", "elements", "lr", "weight_decay", "patterns", "parameters")
    rows = []
    for k, (key, group) in enumerate(groups.items()):
        names = [n for n, _ in group["params"]]
        some = ", ".join(names[:3]) + (f", ... ({len(names) - 3} more)" if len(names) > 3 else "")
        elements = sum(p.numel() for _, p in group["params"])
        rate, decay = (
            "default" if (v := group.get(n)) is None else str(v) if callable(v) else f"{v:g}"
            for n in ("lr", "weight_decay")
        )
        patterns = ", ".join(sorted(notes[key])) or "-"
        rows.append((str(k), str(len(names)), f"{elements:,}", rate, decay, patterns, some))
    if importlib.util.find_spec("rich") is not None:
        from rich.console import Console
        from rich.table import Table

        table = Table(*head)
        for row in rows:
            table.add_row(*row)
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        print("  ".join(x.ljust(w) for x, w in zip(row, widths, strict=True)).rstrip())
