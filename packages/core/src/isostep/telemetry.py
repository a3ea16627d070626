"""Figures of every step, from the pass that takes it: norms, ratios, agreement, what is not finite.

    rule = isostep.observe(rule)                        else nothing changes
    params, state = backend.step(rule, params, grads, state)
    state.figures.parameters()["gradient_norm"]         one number a parameter, an array on the device
    state.figures.group()["update_ratio"]               one for all of them

With p the parameter and g the gradient as the step was given them, u what the step adds, m the new momentum:

    gradient_norm, update_norm, parameter_norm    |g|, |u|, |p|
    update_ratio                                  |u| / |p|
    effective_lr                                  |u| / |g|; of plain SGD the learning rate
    cosine                                        m . g / (|m| |g|)
    sign_agreement                                fraction of elements where m and g have the same sign, neither 0
    nonfinite_gradients, nonfinite_updates        how many elements of g and of u are NaN or infinite

The last two with m only of rules that have one. What is 0 / 0 is NaN. A parameter that took no step has NaN.

The sums that these are made of (``isostep.sums``) are taken by the pass that stores the parameters: a fused path
launches nothing more, reads nothing back and does not wait. They are added up and divided when they are asked for, as
arrays of the framework on the device; ``rows`` brings them to the host. They are the last step's: what is read after
a further step is that step's.
"""

from __future__ import annotations

import csv
import importlib
import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from isostep import nm, sums
from isostep.extras import MissingExtra
from isostep.rule import BoundRule, RuleError
from isostep.state import as_list, check_rule

#: What the figures of all parameters together are called.
GROUP = "group"
#: Figures on the host: what they are of -> figure -> value.
Rows = dict[str, dict[str, float]]


def observe(rule: BoundRule, *, momentum: str | None = None) -> BoundRule:
    """The rule with figures: a step of it leaves them in ``state.figures``. States are the same with and without.

    Args:
        rule: a bound or composed rule.
        momentum: the state array that ``cosine`` and ``sign_agreement`` compare with the gradient; None for the
            rule's running average of gradients, if it has one under a usual name.

    Raises:
        RuleError: the rule has no such state.
    """
    check_rule(rule)
    if momentum is not None and not (
        momentum in rule.state_names and rule.like_parameter(momentum)
    ):
        known = ", ".join(n for n in rule.state_names if rule.like_parameter(n)) or "none"
        message = (
            f"observe: momentum must be a state of {rule.name} of its parameter's shape, got {momentum!r}; "
            f"it has {known}"
        )
        raise RuleError(message)
    return replace(rule, observed=momentum or True)


class Figures:
    """The figures of one step of an observed rule; see the module for what they are.

    ``names`` are those of the sums, ``called`` and ``shapes`` are of all parameters. ``parts`` are pairs of the places
    of some parameters and a function that gives their sums: an array of a row for each. Nothing is computed before it
    is asked for.
    """

    def __init__(
        self,
        backend: Any,
        names: Sequence[str],
        params: Mapping[str, Any] | Sequence[Any],
        parts: Sequence[tuple[Sequence[int], Callable[[], Any]]],
    ) -> None:
        self._backend, self.names, self._parts = backend, tuple(names), parts
        self.shapes = [tuple(p.shape) for p in as_list(params)]
        self.called = list(map(str, params if isinstance(params, Mapping) else range(len(params))))

    def parameters(self) -> dict[str, Any]:
        """Each figure of every parameter: vectors, in the order of the parameters."""
        with self._backend.around(self._stepped):
            return self._of(self.sums, self._array([float(math.prod(s)) for s in self.shapes]))

    def group(self) -> dict[str, Any]:
        """Each figure of all parameters that took the step, taken as one: 0-d arrays."""
        with self._backend.around(self._stepped):
            xp = nm.namespace(self._stepped)
            size = sum(math.prod(self.shapes[i]) for members, _ in self._parts for i in members)
            total = xp.sum(self._stepped, axis=0, dtype=self._stepped.dtype)
            found = self._of(xp.reshape(total, (1, -1)), float(size) or math.nan)
            return {n: v[0] for n, v in found.items()}

    def rows(self, names: Sequence[str] | None = None) -> Rows:
        """All of them on the host, by parameter: ``rows()["group"]["gradient_norm"]``. This waits for the device.

        Args:
            names: what the parameters are called; None for their keys, or their numbers.
        """
        called = self.called if names is None else list(names)
        if len(called) != len(self.shapes) or GROUP in called or len(set(called)) < len(called):
            message = (
                f"figures: names must be {len(self.shapes)} different words other than {GROUP!r}, "
                f"got {len(called)}: {', '.join(map(str, called[:5]))}"
            )
            raise ValueError(message)
        each, whole = self.parameters(), self.group()
        xp = nm.namespace(self.sums)
        with self._backend.around(self._stepped):
            columns = [xp.concat([each[n], xp.reshape(whole[n], (1,))]) for n in each]
            table = self._backend.to_numpy(xp.stack(columns)).T.tolist()
        return {
            n: dict(zip(each, row, strict=True))
            for n, row in zip([*called, GROUP], table, strict=True)
        }

    @cached_property
    def sums(self) -> Any:
        """The sums, a row for every parameter and a column for each of ``names``."""
        order = {i: k for k, i in enumerate(i for members, _ in self._parts for i in members)}
        if list(order) == list(range(len(self.shapes))):
            return self._stepped
        xp = nm.namespace(self._stepped)
        with self._backend.around(self._stepped):
            missing = self._array([[math.nan] * len(self.names)])
            places = [order.get(i, len(order)) for i in range(len(self.shapes))]
            joined = xp.concat([self._stepped, missing])
            return xp.take(joined, self._array(places, xp.int32), axis=0)

    @cached_property
    def _stepped(self) -> Any:
        """The rows of the parameters that took the step."""
        found = [part() for _, part in self._parts]
        with self._backend.around(found[0]):
            return found[0] if len(found) == 1 else nm.namespace(found[0]).concat(found)

    def _array(self, values: list[Any], dtype: Any = None) -> Any:
        """Host numbers where the sums are."""
        like = self._stepped
        xp, dtype = nm.namespace(like), like.dtype if dtype is None else dtype
        return xp.asarray(values, dtype=dtype, device=nm.device(like))

    def _of(self, rows: Any, sizes: Any) -> dict[str, Any]:
        s = {n: rows[:, k] for k, n in enumerate(self.names)}
        gradient, update, parameter = (nm.sqrt(s[n]) for n in ("gradient", "update", "parameter"))
        found = {
            "gradient_norm": gradient,
            "update_norm": update,
            "parameter_norm": parameter,
            "update_ratio": update / parameter,
            "effective_lr": update / gradient,
        }
        if "momentum" in s:
            found["cosine"] = s["alignment"] / (nm.sqrt(s["momentum"]) * gradient)
            found["sign_agreement"] = s["agreement"] / sizes
        found["nonfinite_gradients"] = s["nonfinite_gradient"]
        found["nonfinite_updates"] = s["nonfinite_update"]
        return found

    def spread(self, places: Sequence[int], params: Sequence[Any]) -> Figures:
        """The same for a longer list, in which these are at ``places``."""
        parts = [([places[i] for i in members], part) for members, part in self._parts]
        return Figures(self._backend, self.names, params, parts)


def figures(
    backend: Any,
    rule: BoundRule,
    params: Mapping[str, Any] | Sequence[Any],
    parts: Sequence[tuple[Sequence[int], Callable[[], Any]]],
) -> Figures | None:
    """What a backend's step leaves in ``state.figures``; None where no parameter took the step."""
    if not parts:
        return None
    names = sums.names(rule.momentum is not None)
    return Figures(backend, names, params, parts)


def _rows(found: Figures | Rows | None) -> Rows:
    return found.rows() if isinstance(found, Figures) else found or {}


class CSV:
    """Figures in a file: a line for each parameter and one for the group, at each step that is logged.

    The columns are ``step, parameter`` and the figures. A file that is there already is gone on with, from its last
    whole line. Where there are no figures, as of a step that no parameter took, nothing is written.

    Raises:
        ValueError: at ``log``, if the file has other columns.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def log(self, step: int, found: Figures | Rows | None) -> None:
        """Append the figures of a step; ``found.rows(names)`` gives parameters other names."""
        rows = _rows(found)
        if not rows:
            return
        head = ["step", "parameter", *next(iter(rows.values()), ())]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            self._go_on(file, _line(head))
            lines = [_line([step, n, *map(repr, row.values())]) for n, row in rows.items()]
            file.write(b"".join(lines))

    def _go_on(self, file: BinaryIO, head: bytes) -> None:
        """Write the head into a new file; of an old one check it, and take away a last line that was cut off."""
        file.seek(0)
        first = file.readline().replace(b"\r\n", b"\n")
        if first and not head.startswith(first):
            got = ", ".join(first.decode(errors="replace").strip().split(","))[:200]
            message = f"{self.path} has other columns: {got}; choose another file"
            raise ValueError(message)
        if first != head:
            file.truncate(0)
            file.write(head)
            return
        if file.seek(-1, os.SEEK_END) and file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def _line(values: Sequence[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode()


class TensorBoard:
    """Figures as scalars of TensorBoard, tagged ``figure/parameter``.

    Args:
        to: a folder; or a writer with ``add_scalar(tag, value, step)``, such as ``SummaryWriter``.

    Raises:
        MissingExtra: a folder is given and no package that writes to it is installed.
    """

    def __init__(self, to: Any) -> None:
        self.writer = to if hasattr(to, "add_scalar") else _writer(to)

    def log(self, step: int, found: Figures | Rows | None) -> None:
        """Write the figures of a step."""
        for name, row in _rows(found).items():
            for figure, value in row.items():
                self.writer.add_scalar(f"{figure}/{name}", value, step)


def _writer(folder: Any) -> Any:
    for module in ("tensorboardX", "torch.utils.tensorboard"):
        try:
            return importlib.import_module(module).SummaryWriter(str(folder))
        except ModuleNotFoundError:
            continue
    message = (
        "telemetry.TensorBoard needs the package 'tensorboardX' (or 'torch' and 'tensorboard'); "
        "pip install tensorboardX"
    )
    raise MissingExtra(message)


__all__ = ["CSV", "Figures", "TensorBoard", "observe"]
