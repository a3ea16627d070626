"""Averages of parameters: EMA, SWA and Polyak averages, on any backend, and how to evaluate with them.

    average = isostep.averaging.Average("torch", isostep.averaging.ema(0.999))
    average.update(params)                     after each step, or each epoch
    with average.swapped(params) as averaged:  # evaluates with the averages, then has the weights back
        evaluate(model)

An average is a rule whose gradient is the parameter and whose parameter is the average,

    average <- average + weight(n) * (p - average)       n averages taken before; the first is a copy

so every path of a backend runs it as it runs any rule, fused where it is fused.

Follows: Polyak, Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992 (equal weights); Izmailov et
    al., "Averaging Weights Leads to Wider Optima and Better Generalization", arXiv 1803.05407 (SWA: equal weights of
    chosen steps); Shamir, Zhang, "Stochastic Gradient Descent for Non-smooth Optimization", arXiv 1212.1824
    (polynomial decay); torch.optim.swa_utils.AveragedModel of 2.13, which equals ``equal`` and ``ema``.
Departs:
    - Averages are kept in the parameters' dtype as in torch unless ``dtype`` says otherwise: an EMA in bfloat16
      stands still, as its steps round to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from isostep import nm
from isostep.backend import backend as find_backend
from isostep.domains import Real
from isostep.rule import BoundRule, Rule
from isostep.schedules.base import Schedule, check
from isostep.state import COMPUTE_DTYPE, State, StepError, aligned, arranged, as_list, labels


def towards(p: Any, g: Any, t: int, /, *, weight: Any) -> Any:
    """The step from an average towards the parameter, which stands where a gradient would."""
    return weight * (g - p)


RULE = Rule(
    name="average",
    update=towards,
    hyper={
        "weight": Real(low=0, high=1, doc="weight of the new parameters, by the averages taken")
    },
)


@dataclass(frozen=True)
class ema(Schedule):
    """The weight 1 - decay; with ``warmup`` the decay is at most (1 + n) / (10 + n)."""

    decay: float = 0.999
    warmup: bool = False

    def __post_init__(self) -> None:
        check(self, "decay", self.decay, at_least=0, at_most=1, hint="pass the weight of the past")

    def at(self, t: Any, /) -> Any:
        n = t + 1.0  # a copy is taken before the first
        return 1.0 - (nm.minimum((1.0 + n) / (10.0 + n), self.decay) if self.warmup else self.decay)


@dataclass(frozen=True)
class equal(Schedule):
    """The weight 1 / (n + 1): the mean of all."""

    def at(self, t: Any, /) -> Any:
        return 1.0 / (t + 2.0)


@dataclass(frozen=True)
class polynomial_decay(Schedule):
    """The weight (eta + 1) / (n + 1 + eta): later parameters count more; 0 is the mean of all."""

    eta: float = 3.0

    def __post_init__(self) -> None:
        check(self, "eta", self.eta, at_least=0, hint="pass 0 for the mean of all")

    def at(self, t: Any, /) -> Any:
        return (self.eta + 1.0) / (t + 2.0 + self.eta)


class Average:
    """Averages of a list or dict of arrays.

    Args:
        backend: a backend or its name.
        weight: ``ema(...)``, ``equal()``, ``polynomial_decay(...)`` or any callable of the averages taken since
            the first, with values in [0, 1].
        dtype: that of the averages, ``"float32"``; None for the parameters' own.
    """

    _keys: list[Any] | None = None  # of the first dict; the next may be in another order

    def __init__(
        self, backend: Any, weight: Callable[[int], float], *, dtype: str | None = None
    ) -> None:
        self.backend = find_backend(backend) if isinstance(backend, str) else backend
        self.rule = RULE.bind(weight=weight)
        if dtype is not None and dtype not in COMPUTE_DTYPE:
            message = (
                f"average: dtype must be None or one of {', '.join(COMPUTE_DTYPE)}, got {dtype!r}"
            )
            raise ValueError(message)
        self.dtype = dtype
        self.arrays: list[Any] = []
        self.count = 0
        self._state: Any = None
        self._swapped = False

    def update(self, params: Any) -> None:
        """Take the parameters into the average.

        Raises:
            StepError: inside ``swapped``, where the parameters are the averages; or others than the first time.
        """
        if self._swapped:
            message = "average: update inside swapped() would average the averages; leave it first"
            raise StepError(message)
        arrays = as_list(params)
        current = [self._wide(arrays[i]) for i in self._places(params)]
        if self.count == 0:
            self.arrays = [self._copy(p) for p in current]
            self._keys = list(params) if isinstance(params, Mapping) else None
            self._state = self.backend.init(self.rule, self.arrays)
        else:
            self.arrays, self._state = self.backend.step(
                self.rule, self.arrays, current, self._state
            )
        self.count += 1

    def like(self, params: Any) -> Any:
        """The averages in the structure of ``params``; the arrays are the averages themselves.

        Raises:
            StepError: nothing was averaged yet, or the arrays are others than those averaged.
        """
        places = self._places(params)
        if self.count == 0:
            message = "average: there is none yet; call update(params) first"
            raise StepError(message)
        found = dict(zip(places, self.arrays, strict=True))
        return arranged(params, [found[i] for i in range(len(found))])

    def restore(self, arrays: Sequence[Any] | Mapping[Any, Any], count: int) -> None:
        """Go on from saved ``arrays`` and ``count``; later changes of the given arrays do no harm."""
        check("average", "count", count, at_least=0, whole=True, hint="pass what was saved")
        self.arrays, self.count = [self._copy(a) for a in as_list(arrays)], count
        self._keys = list(arrays) if isinstance(arrays, Mapping) else None
        self._state = self.backend.init(self.rule, self.arrays) if count else None
        if count:
            self._state.t[:] = [count - 1] * len(self.arrays)
            self._state.group_t = count - 1

    @contextmanager
    def swapped(self, params: Any, keep: Sequence[Any] = ()) -> Iterator[Any]:
        """Within the context the parameters are the averages; after it they are what they were, to the bit.

        That holds after an exception too, and whatever was written to them meanwhile. Where arrays cannot be
        changed (JAX), the averages are handed out and ``params`` is untouched.

        Args:
            params: the arrays, in the structure given to ``update``.
            keep: further arrays to be put back, such as a batch norm's running statistics.

        Raises:
            StepError: nothing was averaged yet, other arrays than those averaged, or one that cannot be written.
        """
        if self.count == 0:
            message = "average: nothing to swap in; call update(params) first"
            raise StepError(message)
        before, values = self._swapped, as_list(self.like(params))
        with swapped_in(self.backend, params, values, keep) as averaged:
            self._swapped = self.backend.in_place or before
            try:
                yield averaged
            finally:
                self._swapped = before

    def _places(self, params: Any) -> list[int]:
        """Where in ``params`` the array of each average is; a dict has them by name, in any order."""
        arrays = as_list(params)
        places = list(range(len(arrays)))
        if self.count == 0:
            return places
        if len(arrays) != len(self.arrays):
            message = (
                f"average: is of {len(self.arrays)} arrays, got {len(arrays)}; pass the same ones"
            )
            raise StepError(message)
        if self._keys is not None and isinstance(params, Mapping):
            at = {k: i for i, k in enumerate(params)}
            missing = [k for k in self._keys if k not in at]
            if missing:
                message = (
                    f"average: params has no {missing[0]!r}; pass the arrays that were averaged"
                )
                raise StepError(message)
            places = [at[k] for k in self._keys]
        for i, average in zip(places, self.arrays, strict=True):
            if tuple(arrays[i].shape) != tuple(average.shape):
                called, got = labels(params)[i], tuple(arrays[i].shape)
                message = f"average: {called} must have shape {tuple(average.shape)}, got {got}"
                raise StepError(message)
        return places

    def _wide(self, p: Any) -> Any:
        return p if self.dtype is None else self.backend.cast(p, self.dtype)

    def _copy(self, array: Any) -> Any:
        return _copied(self.backend, array)


def _copied(backend: Any, array: Any) -> Any:
    with backend.quiet():
        return backend.write(backend.zeros_like(array), array)


@contextmanager
def evaluating(
    backend: Any, rule: BoundRule, params: Any, state: State, keep: Sequence[Any] = ()
) -> Iterator[Any]:
    """Within the context the parameters are those to evaluate with, of a rule that trains at others.

    That is a schedule-free rule's average, ASGD's; for most rules the parameters themselves. After it, also after an
    exception, they are what they were, to the bit. ``keep`` as for ``Average.swapped``.

    Raises:
        StepError: the state is not the rule's, or an array cannot be written.
    """
    found = backend.evaluation_point(rule, params, state)  # a dict's is in the state's order
    points = aligned(rule, "evaluation point", params, found)
    with swapped_in(backend, params, points, keep) as swapped:
        yield swapped


@contextmanager
def swapped_in(
    backend: Any, params: Any, values: Sequence[Any], keep: Sequence[Any] = ()
) -> Iterator[Any]:
    """Within the context the parameters have other values; after it they, and ``keep``, are what they were."""
    arrays, others = as_list(params), list(keep)
    if not backend.in_place:
        cast = [backend.cast(a, backend.dtype(p)) for a, p in zip(values, arrays, strict=True)]
        yield arranged(params, cast)
        return
    check_swappable(backend, "average", (*arrays, *others))
    saved = [_copied(backend, a) for a in (*arrays, *others)]  # all of them before any is changed
    try:
        with backend.quiet():
            for p, a in zip(arrays, values, strict=True):
                backend.write(p, a)
        yield params
    finally:
        with backend.quiet():
            for p, a in zip((*arrays, *others), saved, strict=True):
                backend.write(p, a)


def check_swappable(backend: Any, owner: str, arrays: Sequence[Any]) -> None:
    """Raise unless arrays can be given other values and have their own back."""
    for p in arrays:
        if not backend.writable(p):
            message = f"{owner}: cannot swap weights that are read-only; pass writable arrays"
            raise StepError(message)
        if backend.folded(p):
            message = f"{owner}: cannot swap weights whose elements share memory; pass copies"
            raise StepError(message)


__all__ = ["Average", "ema", "equal", "evaluating", "polynomial_decay", "swapped_in"]
