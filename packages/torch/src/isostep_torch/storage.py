"""How tensors are stored, apart from what rules compute: complex numbers, rows of a sparse gradient, low precision.

A rule sees real, dense tensors of one dtype. Where a parameter or its state is kept otherwise, it is opened before
the step, layer by layer, and closed after it. No rule and no path knows; every one has it.

- rows of a sparse gradient: the rows it names are gathered, stepped and put back; other rows do not change
- complex: a tensor of shape s is the real tensor of shape (*s, 2)
- low precision: half-precision parameters, and state in a dtype of its own, are stepped in the compute dtype and
  stored with the rounding that was asked for

Fused kernels take low precision as it is stored (``kept``): they widen what they load and round what they store.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from isostep.program import trace, uniform
from isostep.rule import BoundRule
from isostep.state import StepError
from isostep.storage import LOST, MASTER, OPTIONS, PLAIN, Storage, taken, whole
from isostep.values import FACTS, REDUCTIONS
from isostep_torch.rounding import key_of, stochastic_
from isostep_torch.sharded import laid_out

HALVES = (torch.bfloat16, torch.float16)
DTYPES = (torch.float64, torch.float32, *HALVES)

Tensors = dict[str, torch.Tensor]
Close = Callable[[Tensors], None]


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """The options about storage must make sense together."""
    dtype = options["state_dtype"]
    if dtype is not None and dtype not in DTYPES:
        allowed = ", ".join(str(d) for d in DTYPES)
        message = f"{name}: state_dtype must be None or one of {allowed}, got {dtype!r}"
        raise ValueError(message)
    _taken(name, options)


def _taken(name: str, options: Mapping[str, Any]) -> tuple[Storage, int]:
    dtype = options["state_dtype"]
    own = {n: options[n] for n in OPTIONS}
    return taken(name, own | {"state_dtype": None if dtype is None else _name(dtype)})


def real(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself, or a complex one as pairs of reals."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def plain(group: Mapping[str, Any]) -> bool:
    """Whether this group's tensors are stored as rules see them (sparse gradients aside)."""
    return kept(group) == PLAIN and not any(p.is_complex() for p in group["params"])


def kept(group: Mapping[str, Any]) -> Storage:
    """How this group's options have arrays stored."""
    return _taken("", group)[0]


def as_kept(storage: Storage, params: Sequence[torch.Tensor], arrays: Sequence[Tensors]) -> bool:
    """Whether real parameters have state of the dtypes that ``storage`` says."""
    for p, own in zip(params, arrays, strict=True):
        mine, dtype = storage.of(_name(p.dtype)), _name(p.dtype)
        if p.is_complex() or any(_name(a.dtype) != mine.dtype_of(n, dtype) for n, a in own.items()):
            return False
    return True


def same_dtypes(params: Sequence[torch.Tensor], given: Sequence[torch.Tensor | None]) -> bool:
    """Whether what is given for parameters has their dtypes."""
    return all(a is None or a.dtype is p.dtype for p, a in zip(params, given, strict=True))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def dtype_of_state(group: Mapping[str, Any], p: torch.Tensor) -> torch.dtype:
    """The dtype that the state arrays of ``p`` are kept in."""
    chosen: torch.dtype | None = group["state_dtype"]
    return real(p).dtype if chosen is None else chosen


def extra_names(group: Mapping[str, Any], p: torch.Tensor) -> tuple[str, ...]:
    """What the options keep beside the rule's state for ``p``."""
    half = p.dtype in HALVES
    return tuple(n for n, on in ((MASTER, "master_weights"), (LOST, "kahan")) if half and group[on])


def make_state(rule: BoundRule, group: Mapping[str, Any], p: torch.Tensor, backend: Any) -> Tensors:
    """The arrays of a parameter's first step, as they are stored."""
    q = real(
        p if group["differentiable"] else p.detach()
    )  # MADGRAD's state starts as the parameter
    dtype = dtype_of_state(group, p)
    made: Tensors = {}
    wide = q if q.dtype is dtype else q.to(_compute(q))
    for n, a in backend.init(rule, [wide]).arrays[0].items():
        stored = a.to(dtype)
        pairs = p.is_complex() and a.shape == q.shape and dtype is q.dtype
        made[n] = torch.view_as_complex(stored) if pairs else stored
    for n in extra_names(group, p):
        made[n] = q.to(torch.float32, copy=True) if n == MASTER else torch.zeros_like(q)
    return made


def check_dense(rule: BoundRule, params: Sequence[torch.Tensor]) -> None:
    """A gradient may be sparse, a parameter may not."""
    for i, p in enumerate(params):
        if p.layout is not torch.strided:
            message = (
                f"{rule.name}: params[{i}] must be dense, got layout {p.layout}; use its to_dense()"
            )
            raise StepError(message)


def check_state(rule: BoundRule, own: Mapping[str, Any]) -> None:
    """What stands under the rule's names in a parameter's entry must be tensors."""
    for n in rule.state_names:
        if not isinstance(own[n], torch.Tensor):
            message = f"{rule.name}: state {n} must be a tensor, got {own[n]!r}; set it to one, or clear the state"
            raise StepError(message)


def kept_as(group: Mapping[str, Any], p: torch.Tensor, arrays: Tensors) -> Tensors:
    """A parameter's state in the dtype that the options now keep it in."""
    dtype = dtype_of_state(group, p)
    return {n: a.to(p.dtype if a.is_complex() else dtype) for n, a in arrays.items()}


def _compute(p: torch.Tensor) -> torch.dtype:
    return torch.float64 if p.dtype is torch.float64 else torch.float32


@dataclass
class Opened:
    """A parameter as a rule sees it; ``close`` stores what the step made of it."""

    p: torch.Tensor
    g: torch.Tensor
    inputs: dict[str, Any]
    arrays: Tensors
    layers: list[Close]

    def close(self) -> None:
        done = {"p": self.p, **self.arrays}
        for layer in reversed(self.layers):
            layer(done)


def open_tensors(
    group: Mapping[str, Any],
    p: torch.Tensor,
    g: torch.Tensor,
    inputs: Mapping[str, Any],
    arrays: Tensors,
    extra: Tensors,
    noise: tuple[int, Any, int],
) -> Opened:
    """Open one parameter. ``extra`` are the options' own arrays, ``noise`` is (seed, step, place of the parameter)."""
    layers: list[Close] = []
    tensors = {"p": p, **arrays, **extra}
    given = {"g": g, **{n: v for n, v in inputs.items() if isinstance(v, torch.Tensor)}}
    if g.is_sparse:
        tensors, given, close = _rows(tensors, given)
        layers.append(close)
    if p.is_complex():
        pairs = {n: real(a) for n, a in tensors.items()}
        tensors, given = pairs, {n: real(a.resolve_conj()) for n, a in given.items()}
    half = tensors["p"].dtype in HALVES and bool(extra or group["stochastic_rounding"])
    if half or any(tensors[n].dtype is not tensors["p"].dtype for n in arrays):
        tensors, close = _wide(tensors, noise if group["stochastic_rounding"] else None)
        layers.append(close)
        given = {n: a.to(tensors["p"].dtype) for n, a in given.items()}
    own = {n: tensors[n] for n in arrays}
    return Opened(tensors["p"], given.pop("g"), {**inputs, **given}, own, layers)


def _rows(tensors: Tensors, given: Tensors) -> tuple[Tensors, Tensors, Close]:
    """The rows that a sparse gradient names; a row named twice has its entries added."""
    g = given["g"].coalesce()
    rows = tuple(g.indices())

    def close(done: Tensors) -> None:
        for n, a in tensors.items():
            a[rows] = gathered[n]

    gathered = {n: a[rows] for n, a in tensors.items()}
    inputs = {n: a[rows] for n, a in given.items() if n != "g"}
    return gathered, {"g": g.values(), **inputs}, close


def _wide(tensors: Tensors, noise: tuple[int, Any, int] | None) -> tuple[Tensors, Close]:
    """Everything in the compute dtype, the very tensors where they have it; the options' arrays become part of p.

    With ``kahan`` the parameter is the sum of two halves, itself and what it lost: both are rounded to nearest.
    """
    p, dtype = tensors["p"], _compute(tensors["p"])
    own = {n: a.to(dtype) for n, a in tensors.items() if n in (MASTER, LOST)}
    entire = whole(p.to(dtype), own, lambda x: x.to(p.dtype).to(dtype), torch.where)
    names = [n for n in tensors if n not in ("p", MASTER, LOST)]
    opened = {"p": entire, **{n: tensors[n].to(dtype) for n in names}}

    def store(place: int, target: torch.Tensor, value: torch.Tensor) -> None:
        if target is value:
            return
        if noise is None or target.dtype not in HALVES:
            target.copy_(value)
        else:
            key = key_of(*noise, target.device)
            stochastic_(target, value.to(torch.float32), key, place)

    def close(done: Tensors) -> None:
        for place, n in enumerate(("p", *names)):
            store(place, tensors[n], done[n])
        if MASTER in tensors:
            tensors[MASTER].copy_(done["p"])
        if LOST in tensors:
            lost = done["p"] - p
            tensors[LOST].copy_(torch.where(lost.isfinite(), lost, 0.0))

    return opened, close


def ties(rule: BoundRule) -> str | None:
    """Why an element's step depends on other elements, in words; None if each can be stepped alone."""
    if not uniform(rule):
        return "works on axes, matrices or shapes"
    programs = [trace(rule, kind) for kind in rule.kinds()]
    nodes = [n for program in programs for n in program.live]
    tied = [n for n in nodes if n.op in REDUCTIONS or (n.op in FACTS and n.op != "eps")]
    shared = any(program.group_inputs for program in programs)
    return "depends on more than one row" if tied or shared else None


def check_rows(rule: BoundRule) -> None:
    """Rows can be stepped alone only where no element depends on another."""
    if why := ties(rule):
        message = f"{rule.name}: sparse gradients need a rule of single elements, and this one {why}; use sparse=False"
        raise StepError(message)


def shards(rule: BoundRule, params: Sequence[torch.Tensor]) -> list[torch.Tensor] | None:
    """The parts of distributed parameters (FSDP2's) that lie here, if they can be stepped alone."""
    module = sys.modules.get("torch.distributed.tensor")  # if nobody has loaded it, there are none
    if module is None or {*map(type, params)} != {module.DTensor} or rule.observed or ties(rule):
        return None
    return [local(p) for p in params]


def local(tensor: Any, like: Any = None) -> Any:
    """The part of a distributed tensor that lies here, laid out as ``like`` is; any other tensor itself."""
    if not hasattr(tensor, "to_local"):
        return tensor
    with torch.no_grad():
        return (tensor if like is None else laid_out(tensor, like)).to_local()
