"""How tensors are stored, apart from what rules compute: complex numbers, rows of a sparse gradient, low precision.

A rule sees real, dense tensors of one dtype. Where a parameter or its state is kept otherwise, it is opened before
the step, layer by layer, and closed after it. No rule and no path knows; every one has it.

- rows of a sparse gradient: the rows it names are gathered, stepped and put back; other rows do not change
- complex: a tensor of shape s is the real tensor of shape (*s, 2)
- low precision: half-precision parameters, and state in a dtype of its own or in blocks of eight bits, are stepped in
  the compute dtype and stored with the rounding that was asked for

Fused kernels take low precision as it is stored (``kept``), and blocks where they know them (``takes_blocks``): they
widen what they load and round what they store.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import Any

import torch

from isostep.blocks import FORMATS, SCALE, count
from isostep.program import trace, uniform
from isostep.rule import BoundRule
from isostep.state import StepError, check_like
from isostep.storage import LOST, MASTER, OPTIONS, PLAIN, Storage, taken, whole
from isostep.values import FACTS, REDUCTIONS
from isostep_torch import blocks
from isostep_torch.rounding import key_of, stochastic_
from isostep_torch.sharded import distributed, laid_out

HALVES = (torch.bfloat16, torch.float16)
DTYPES = (torch.float64, torch.float32, *HALVES)

Tensors = dict[str, torch.Tensor]
#: Of what is rounded by chance: the seed, the step and the parameter's place.
Noise = tuple[int, Any, int]
#: Stores what a step has made, unless the second, a tensor, says that it is not to be taken.
Close = Callable[[Tensors, "torch.Tensor | None"], None]

#: Bytes of state that may be open at a time, of arrays that are kept in blocks.
OPEN = 1 << 26


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """The options about storage must make sense together."""
    dtype = options["state_dtype"]
    if dtype is not None and dtype not in DTYPES and not in_blocks(options):
        allowed = ", ".join([*map(str, DTYPES), *map(repr, FORMATS)])
        message = f"{name}: state_dtype must be None or one of {allowed}, got {dtype!r}"
        raise ValueError(message)
    _taken(name, options)


def _taken(name: str, options: Mapping[str, Any]) -> tuple[Storage, int]:
    dtype = options["state_dtype"]
    own = {n: options[n] for n in OPTIONS}
    return taken(name, own | {"state_dtype": None if dtype is None else _name(dtype)})


def in_blocks(options: Mapping[str, Any]) -> bool:
    """Whether the options ask for state in blocks of eight bits."""
    chosen = options["state_dtype"]
    return type(chosen) is str and chosen in FORMATS


def check_blocks(rule: BoundRule, group: Mapping[str, Any], sparse: bool = False) -> None:
    """State in blocks is for parameters that are whole arrays of real numbers, and gradients of all of them."""
    if not in_blocks(group):
        return
    params, chosen = group["params"], group["state_dtype"]
    what = "sparse gradients" if sparse else None
    if any(p.dtype.is_complex for p in params):
        what = "complex parameters"
    if any(map(distributed, params)):
        what = "distributed parameters (DTensor)"
    if what is not None:
        message = f"{rule.name}: state_dtype {chosen!r} is not for {what}; use a torch dtype"
        raise StepError(message)
    kept(group, rule)


def real(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself, or a complex one as pairs of reals."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def plain(group: Mapping[str, Any]) -> bool:
    """Whether this group's tensors are stored as rules see them (sparse gradients aside)."""
    return kept(group) == PLAIN and not any(p.is_complex() for p in group["params"])


def kept(group: Mapping[str, Any], rule: BoundRule | None = None) -> Storage:
    """How this group's options have arrays stored; with a rule, which of its arrays are kept in blocks.

    One that has no state now (SGD, while its momentum is 0) has nothing to keep in them.

    Raises:
        ValueError: it has state, and none that blocks are for.
    """
    found = _taken("" if rule is None else rule.name, group)[0]
    if rule is None or found.form is None:
        return found
    return found.of_rule(rule) if rule.state_names else replace(found, state=None)


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


def mixed(params: Sequence[torch.Tensor], grads: Sequence[torch.Tensor | None]) -> bool:
    """Whether gradients have other dtypes than their parameters, which say that they may (``p.grad_dtype``)."""
    pairs = zip(params, grads, strict=True)
    other = [(p, g) for p, g in pairs if g is not None and g.dtype is not p.dtype]
    return bool(other) and all(_allows(p, g) for p, g in other)


def _allows(p: torch.Tensor, g: torch.Tensor) -> bool:
    own = p.is_leaf and p.dtype in DTYPES and g.dtype in DTYPES
    return own and getattr(p, "grad_dtype", p.dtype) in (None, g.dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def dtype_of_state(group: Mapping[str, Any], p: torch.Tensor) -> torch.dtype:
    """The dtype that the state arrays of ``p`` are kept in."""
    chosen = group["state_dtype"]  # blocks are not for every array
    return chosen if isinstance(chosen, torch.dtype) else real(p).dtype


def extra_names(how: Storage, p: torch.Tensor) -> tuple[str, ...]:
    """What is kept beside the rule's state for ``p``."""
    return how.of(_name(p.dtype)).extra


def make_state(rule: BoundRule, group: Mapping[str, Any], p: torch.Tensor, backend: Any) -> Tensors:
    """The arrays of a parameter's first step, as they are stored."""
    q = real(
        p if group["differentiable"] else p.detach()
    )  # MADGRAD's state starts as the parameter
    dtype = dtype_of_state(group, p)
    made: Tensors = {}
    wide, how = q if q.dtype is dtype else q.to(_compute(q)), kept(group, rule)
    own = Storage(how.form, packed=how.packed)
    for n, a in backend.init(rule, [wide], storage=own).arrays[0].items():
        stored = a if n in how.packed or n in how.scales else a.to(dtype)
        pairs = p.is_complex() and a.shape == q.shape and dtype is q.dtype
        made[n] = torch.view_as_complex(stored) if pairs else stored
    for n in {*extra_names(how, p)} - {*how.scales}:
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
    """What stands under the rule's names in a parameter's entry must be tensors, and so must scales beside them."""
    for n in (*rule.state_names, *(n + SCALE for n in rule.state_names if n + SCALE in own)):
        if not isinstance(own[n], torch.Tensor):
            message = f"{rule.name}: state {n} must be a tensor, got {own[n]!r}; set it to one, or clear the state"
            raise StepError(message)


def bytes_alone(own: Mapping[str, Any], name: str) -> str | None:
    """What is wrong with an array of an entry that is of bytes, and has no scales of its own; None if nothing is."""
    a, scales = own.get(name), own.get(name + SCALE)
    if isinstance(a, torch.Tensor) and a.dtype is torch.uint8 and scales is None:
        return f"state {name} is of bytes, which mean nothing without {name + SCALE}"
    return None


def kept_as(
    how: Storage, group: Mapping[str, Any], p: torch.Tensor, arrays: Mapping[str, Any]
) -> Tensors:
    """A parameter's state in the dtype that the options now keep it in; ``in_form`` sees to what is in blocks."""
    dtype = dtype_of_state(group, p)
    found = {n: a for n, a in arrays.items() if n not in how.packed}
    return {n: a.to(p.dtype if a.is_complex() else dtype) for n, a in found.items()}


def is_packed(own: Mapping[str, Any], name: str) -> bool:
    """Whether an array of a parameter's entry is in blocks of eight bits, with scales beside it."""
    both = own.get(name), own.get(name + SCALE)
    return all(isinstance(a, torch.Tensor) and a.dtype is torch.uint8 for a in both)


def opened(own: Mapping[str, Any], name: str, form: str | None) -> torch.Tensor:
    """An array of an entry as numbers, whichever way it is kept; ``form``: of what is in blocks.

    Raises:
        StepError: it is in blocks of an unknown form, or the scales are another array's.
    """
    a: torch.Tensor = own[name]
    if not is_packed(own, name):
        return a
    scales = own[name + SCALE]
    if form is None:
        message = f"state {name} is in blocks of eight bits, of which form is not known; set state_dtype to it"
        raise StepError(message)
    if tuple(scales.shape) != (count(a.shape),):
        message = (
            f"state {name + SCALE} must be of shape {(count(a.shape),)}, got {tuple(scales.shape)}"
        )
        raise StepError(message)
    return blocks.unpacked(a.detach(), scales.detach(), form)


def in_form(
    rule: BoundRule, how: Storage, own: Mapping[str, Any], form: str | None, noise: Noise
) -> Tensors:
    """What of an entry has to change to be kept as ``how`` says: arrays to and from blocks, those of ``form``.

    The scales of what leaves blocks are of no use any more. Numbers keep their values where they were in blocks before.
    """
    found: Tensors = {}
    for n in rule.state_names:
        a = own.get(n)
        if not isinstance(a, torch.Tensor) or a.is_complex():
            continue
        there, wanted = is_packed(own, n), n in how.packed
        if there and not (wanted and form == how.form):
            a = found[n] = opened(own, n, form)
            there = False
        if wanted and not there and a.is_floating_point():
            found |= packed(how, n, a, rule.state_names, noise)
    return found


def packed(
    how: Storage, name: str, value: torch.Tensor, names: Sequence[str], noise: Noise
) -> Tensors:
    """An array in blocks and their scales, under their names; ``names`` are the rule's."""
    form, key = str(how.form), key_of(*noise, value.device)
    wide = value.detach().to(torch.float32)
    both = blocks.packed(wide, form, key, how.number(name, names))
    return dict(zip((name, name + SCALE), both, strict=True))


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

    def close(self, found_inf: torch.Tensor | None = None) -> None:
        """``found_inf``: a tensor that is not 0 if the step changed nothing."""
        done = {"p": self.p, **self.arrays}
        for layer in reversed(self.layers):
            layer(done, found_inf)


def open_tensors(
    how: Storage,
    p: torch.Tensor,
    g: torch.Tensor,
    inputs: Mapping[str, Any],
    arrays: Tensors,
    extra: Tensors,
    noise: Noise,
    rests: Mapping[str, Any],
) -> Opened:
    """Open one parameter. ``extra`` are the options' own arrays; ``rests``: see ``resting``."""
    layers: list[Close] = []
    tensors = {"p": p, **arrays, **extra}
    given = {"g": g, **{n: v for n, v in inputs.items() if isinstance(v, torch.Tensor)}}
    if g.is_sparse:
        tensors, given, close = _rows(tensors, given)
        layers.append(close)
    if p.is_complex():
        pairs = {n: real(a) for n, a in tensors.items()}
        tensors, given = pairs, {n: real(a.resolve_conj()) for n, a in given.items()}
    half = tensors["p"].dtype in HALVES and bool(extra or how.stochastic)
    others = (*(tensors[n] for n in arrays), *given.values())
    if half or any(a.dtype is not tensors["p"].dtype for a in others):
        tensors, close = _wide(how, tensors, noise, rests)
        layers.append(close)
        given = {n: a.to(tensors["p"].dtype) for n, a in given.items()}
    own = {n: tensors[n] for n in arrays}
    return Opened(tensors["p"], given.pop("g"), {**inputs, **given}, own, layers)


def resting(
    rule: BoundRule, how: Storage, t: Any, shape: tuple[int, ...]
) -> dict[str, bool | torch.Tensor]:
    """The arrays in blocks that step ``t`` leaves alone: packed again, the same numbers may have other bytes.

    Each is True, or where some kinds of step leave it alone and ``t`` is not to be read a tensor that says so.
    """
    if not how.packed:
        return {}
    kinds = rule.kinds() if isinstance(t, torch.Tensor) else [rule.phase(t)]
    stored = [trace(rule, kind, shape).stored for kind in kinds]
    found: dict[str, bool | torch.Tensor] = {}
    for n in how.packed:
        own = [k for k, names in enumerate(stored) if n not in names]
        if len(own) == len(kinds):
            found[n] = True
        elif own:
            which = rule.kind(t.long())
            found[n] = reduce(or_, [which == k for k in own])
    return found


def _rows(tensors: Tensors, given: Tensors) -> tuple[Tensors, Tensors, Close]:
    """The rows that a sparse gradient names; a row named twice has its entries added."""
    g = given["g"].coalesce()
    rows = tuple(g.indices())

    def close(done: Tensors, found_inf: torch.Tensor | None) -> None:
        for n, a in tensors.items():
            a[rows] = gathered[n]

    gathered = {n: a[rows] for n, a in tensors.items()}
    inputs = {n: a[rows] for n, a in given.items() if n != "g"}
    return gathered, {"g": g.values(), **inputs}, close


def _wide(
    how: Storage, tensors: Tensors, noise: Noise, rests: Mapping[str, Any]
) -> tuple[Tensors, Close]:
    """Everything in the compute dtype, the very tensors where they have it; the options' arrays become part of p.

    With ``kahan`` the parameter is the sum of two halves, itself and what it lost: both are rounded to nearest.
    """
    p, dtype = tensors["p"], _compute(tensors["p"])
    own = {n: a.to(dtype) for n, a in tensors.items() if n in (MASTER, LOST)}
    entire = whole(p.to(dtype), own, lambda x: x.to(p.dtype).to(dtype), torch.where)
    names = [n for n in tensors if n not in ("p", MASTER, LOST, *how.scales)]
    wide = {n: opened(tensors, n, how.form).to(dtype) for n in names}

    def store(place: int, target: torch.Tensor, value: torch.Tensor) -> None:
        if target is value:
            return
        if not how.stochastic or target.dtype not in HALVES:
            target.copy_(value)
        else:
            key = key_of(*noise, target.device)
            stochastic_(target, value.to(torch.float32), key, place)

    def pack(name: str, value: torch.Tensor, found_inf: torch.Tensor | None) -> None:
        # Numbers that stay may yet find a smaller scale.
        stays = [] if found_inf is None else [found_inf != 0]
        if (rest := rests.get(name)) is not None:
            stays.append(rest)
        for n, a in packed(how, name, value, names, noise).items():
            tensors[n].copy_(torch.where(reduce(or_, stays), tensors[n], a) if stays else a)

    def close(done: Tensors, found_inf: torch.Tensor | None) -> None:
        for place, n in enumerate(("p", *names)):
            if n in how.packed:
                if rests.get(n) is not True:
                    pack(n, done[n], found_inf)
            else:
                store(place, tensors[n], done[n])
        if MASTER in tensors:
            tensors[MASTER].copy_(done["p"])
        if LOST in tensors:
            lost = done["p"] - p
            tensors[LOST].copy_(torch.where(lost.isfinite(), lost, 0.0))

    return {"p": entire, **wide}, close


def runs(
    rule: BoundRule, how: Storage, params: Sequence[torch.Tensor], active: Sequence[int]
) -> list[list[int]]:
    """Which parameters are opened at the same time: all, or where blocks are to be opened no more than fits ``OPEN``.

    Grouping does not matter to a rule that ties no parameters. Figures are those of one step.
    """
    tied = rule.group_names or rule.sequential or rule.reduces_group or rule.observed
    if tied or not how.packed:
        return [list(active)]
    found: list[list[int]] = [[]]
    size = 0
    for i in active:
        own = params[i].numel() * (len(rule.state_names) + 1) * _compute(params[i]).itemsize
        if found[-1] and size + own > OPEN:
            found.append([])
            size = 0
        found[-1].append(i)
        size += own
    return found


def check_opened(
    backend: Any,
    rule: BoundRule,
    how: Storage,
    params: Sequence[torch.Tensor],
    given: Mapping[str, Sequence[Any]],
    arrays: Sequence[Tensors],
    active: Sequence[int],
) -> None:
    """Before runs of which one is written when the next begins: what is given, and blocks, must fit the parameters."""
    for i in active:
        p, label = params[i], f"params[{i}]"
        shape, dtype = tuple(p.shape), _name(p.dtype)
        for n, values in given.items():
            if not isinstance(values[i], torch.Tensor):
                message = (
                    f"{rule.name}: {n} of {label} must be an array, got {type(values[i]).__name__}"
                )
                raise StepError(message)
            check_like(rule, label, n, dtype, tuple(values[i].shape), (dtype, shape))
        for n in (*how.packed, *how.scales):
            a, wanted = arrays[i][n], how.shape_of(n, shape)
            fits = tuple(a.shape) == wanted and a.dtype is torch.uint8
            if not (fits and backend.writable(a) and not backend.folded(a)):
                message = (
                    f"{rule.name}: state {n} of {label} must be a writable uint8 array of shape {wanted}, got "
                    f"{_name(a.dtype)} {tuple(a.shape)}; make a new state"
                )
                raise StepError(message)


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
