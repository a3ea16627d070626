"""Wrong rules, each a mistake that some library or test suite has let through; and wrong backends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from isostep import nm
from isostep.backends.numpy import NumpyReference
from isostep.rule import BoundRule, Component

Update = Callable[..., Any]


def adam(
    p: Any, g: Any, m: Any, v: Any, *top_t: Any, lr: Any, betas: Any, eps: Any, weight_decay: Any,
    coupled: bool, wrong: dict[str, Any],
) -> Any:  # fmt: skip
    """Adam and AdamW in torch's dialect, with one slip."""
    *tops, t = top_t
    b1, b2 = wrong.get("betas", betas)
    lr, eps = lr * wrong.get("lr", 1.0), eps * wrong.get("eps", 1.0)
    decay = weight_decay * wrong.get("decay", 1.0) + wrong.get("stray", 0.0)
    if wrong.get("coupled", coupled):
        g = g + decay * p
    old_m, old_v = m, v
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * (abs(g) if "abs" in wrong else g * g)
    c1 = c2 = 1.0
    if "no correction" not in wrong:
        late = t + wrong.get("t", 0)
        c1, c2 = nm.one_minus_pow(b1, late), nm.one_minus_pow(b2, late)
    c1, c2 = (1.0 if "m uncorrected" in wrong else c1), (1.0 if "v uncorrected" in wrong else c2)
    used_m = old_m if "old m" in wrong else g if "no momentum" in wrong else m
    used_v = old_v if "old v" in wrong else v
    new = [m, v]
    if tops and "amsgrad of the corrected" in wrong:
        new.append(nm.maximum(tops[0], v / c2))
        used_v, c2 = new[2], 1.0
    elif tops:
        new.append(nm.maximum(tops[0], v))
        used_v = v if "amsgrad ignored" in wrong else new[2]
    if "inside" in wrong:
        root = nm.sqrt(used_v / c2 + eps)
    elif "hat" in wrong:
        root = (nm.sqrt(used_v) + eps) / nm.sqrt(c2)
    elif "abs" in wrong:
        root = used_v / c2 + eps
    else:
        root = nm.sqrt(used_v / c2) + eps
    u = -(lr / c1) * used_m / root
    if "sign" in wrong:
        u = -lr * nm.sign(m)
    if not coupled and not wrong.get("coupled", coupled):
        u = u - (lr * decay) * p
    u = u * wrong.get("u", 1.0)
    return (u, old_m, old_v, *tops) if "not stored" in wrong else (u, *new)


#: The 21 wrong Adams of the survey: the acceptance criteria of five incumbent suites let 3 to 20 of them pass.
WRONG_ADAMS: dict[str, dict[str, Any]] = {
    "eps inside the root": {"inside": True},
    "eps hat": {"hat": True},
    "eps ignored": {"eps": 0.0},
    "bias correction with t + 1": {"t": 1},
    "bias correction with t + 1000": {"t": 1000},
    "no bias correction": {"no correction": True},
    "no bias correction of m": {"m uncorrected": True},
    "no bias correction of v": {"v uncorrected": True},
    "b1 = 0.8": {"betas": (0.8, 0.97)},
    "b2 = 0.99": {"betas": (0.9, 0.99)},
    "v an average of |g|": {"abs": True},
    "stray weight decay": {"stray": 0.01},
    "weight decay ignored": {"decay": 0.0},
    "amsgrad ignored": {"amsgrad ignored": True},
    "amsgrad of the corrected v": {"amsgrad of the corrected": True},
    "lr x 0.9": {"lr": 0.9},
    "sign of the momentum": {"sign": True},
    "the momentum of the last step": {"old m": True},
    "no momentum": {"no momentum": True},
    "uphill": {"u": -1.0},
    "does nothing": {"u": 0.0},
}

#: The mistakes of the AdamW trial that are wrong arithmetic; NaN and dtype leaks are wrong backends, below.
WRONG_ADAMWS: dict[str, dict[str, Any]] = {
    "weight decay ignored": {"decay": 0.0},
    "lr 1% off": {"lr": 1.01},
    "bias correction late": {"t": 1},
    "eps ignored": {"eps": 0.0},
    "state not updated": {"not stored": True},
    "decay in the gradient": {"coupled": True},
}


class WrongRule(NumpyReference):
    """NumPy with another update in place of the rule's."""

    name = "wrong"

    def __init__(self, update: Update) -> None:
        self.update = update

    def step(self, rule: BoundRule, params: Any, grads: Any, state: Any, **inputs: Any) -> Any:
        part = replace(rule.rule, update=self.update)
        component = next(c for c in rule.components if c.part is rule.rule)
        components = tuple(
            Component(part, c.prefix) if c is component else c for c in rule.components
        )
        return super().step(BoundRule(components, rule.values), params, grads, state, **inputs)


class GivesNaN(NumpyReference):
    """One NaN in one array."""

    def step(self, rule: BoundRule, params: Any, grads: Any, state: Any, **inputs: Any) -> Any:
        params, state = super().step(rule, params, grads, state, **inputs)
        params[0].flat[-1] = np.nan
        return params, state


class LeaksDtype(NumpyReference):
    """float64 out of float32."""

    def step(self, rule: BoundRule, params: Any, grads: Any, state: Any, **inputs: Any) -> Any:
        params, state = super().step(rule, params, grads, state, **inputs)
        for arrays in state.arrays:
            for n, a in arrays.items():
                arrays[n] = a.astype(np.float64)
        return params, state


class WritesGradient(NumpyReference):
    """The gradient as scratch space."""

    def step(self, rule: BoundRule, params: Any, grads: Any, state: Any, **inputs: Any) -> Any:
        result = super().step(rule, params, grads, state, **inputs)
        for g in grads:
            if g is not None:
                g *= g.dtype.type(0.5)
        return result


class DependsOnGrouping(NumpyReference):
    """A fused step whose rounding, not its budget, knows how many parameters there are."""

    def step(self, rule: BoundRule, params: Any, grads: Any, state: Any, **inputs: Any) -> Any:
        result = super().step(rule, params, grads, state, **inputs)
        if len(params) > 1:
            for p in params:
                np.nextafter(p, p.dtype.type(9), out=p)
        return result


class TakesMemoryForRows(NumpyReference):
    """A kernel that walks through a gradient as it lies in memory."""

    def step(self, rule: BoundRule, params: Any, grads: Any, state: Any, **inputs: Any) -> Any:
        flat = [g if g is None else np.ravel(g, order="K").reshape(g.shape) for g in grads]
        return super().step(rule, params, flat, state, **inputs)


class NarrowScalars(NumpyReference):
    """1 - beta**t as a difference of float32's: good enough for most rates, and off by 1e-4 for those near 1."""

    def step(self, rule: BoundRule, params: Any, grads: Any, state: Any, **inputs: Any) -> Any:
        starts, counts = [p.copy() for p in params], [t + 1 for t in state.t]
        result = super().step(rule, params, grads, state, **inputs)
        for p, start, t in zip(params, starts, counts, strict=True):
            hyper = rule.at(t)
            beta, one = np.float32(hyper["betas"][0]), np.float32(1)
            off = (1 - hyper["betas"][0] ** t) / float(one - beta ** np.float32(t))
            decayed = start * p.dtype.type(1 - hyper["lr"] * hyper["weight_decay"])
            p[...] = decayed + (p - decayed) * p.dtype.type(off)
        return result


class LooksBeforeItChecks(NumpyReference):
    """Something of Python's own where an error should say what is wrong."""

    def step(self, rule: BoundRule, params: Any, grads: Any, state: Any, **inputs: Any) -> Any:
        assert [grads[i].shape for i in range(len(params))]
        return super().step(rule, params, grads, state, **inputs)


class NeverTheSame(NumpyReference):
    """Sums in another order at each call."""

    calls = 0

    def step(self, rule: BoundRule, params: Any, grads: Any, state: Any, **inputs: Any) -> Any:
        result = super().step(rule, params, grads, state, **inputs)
        NeverTheSame.calls += 1
        if NeverTheSame.calls % 2:
            params[0][...] = np.nextafter(params[0], params[0].dtype.type(9))
        return result


class WritesOnError(NumpyReference):
    """Changes parameters before it has looked at all gradients."""

    def step(self, rule: BoundRule, params: Any, grads: Any, state: Any, **inputs: Any) -> Any:
        for p in params:
            p *= p.dtype.type(1)
            p += p.dtype.type(0.5)
        result = super().step(rule, [p - p.dtype.type(0.5) for p in params], grads, state, **inputs)
        for p, new in zip(params, result[0], strict=True):
            p[...] = new
        return params, result[1]


class GoesByPlace(NumpyReference):
    """Takes a dict's arrays in the order in which they come, whatever the state's is."""

    def step(self, rule: BoundRule, params: Any, grads: Any, state: Any, **inputs: Any) -> Any:
        keys, state.keys = state.keys, None
        try:
            return super().step(rule, params, grads, state, **inputs)
        finally:
            state.keys = keys
