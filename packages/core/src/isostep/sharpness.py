"""The gradient where the loss is sharpest nearby: SAM, ASAM and LookSAM, on any backend.

    sam = isostep.sharpness.SAM("numpy", rho=0.05)
    grads = sam.gradient(gradient, params)                     gradient(params) -> grads, called twice
    params, state = backend.step(rule, params, grads, state)

or, where the caller takes the gradients, ``with sam.perturbed(params, grads) as away: ...``. With w the weights and
all norms over all arrays together:

    SAM       e = rho * g / (|g| + eps)
    ASAM      e = rho * T**2 g / (|T g| + eps),  T = |w| + eta
    LookSAM   every k-th time s = gradient at w + e, v = s - (s . g) / |g|**2 * g, and s is the gradient;
              else g + alpha * |g| / |v| * v is, with the v of the last time

Follows: Foret, Kleiner, Mobahi, Neyshabur, "Sharpness-Aware Minimization", arXiv 2010.01412, Algorithm 1 (p = 2);
    Kwon, Kim, Park, Choi, "ASAM", arXiv 2102.11600, Algorithm 1 (elementwise); Liu, Mai, Chen, Hsieh, You, "Towards
    Efficient and Scalable Sharpness-Aware Minimization", arXiv 2203.02714, Algorithm 1. optax.contrib.sam and
    davda54/sam agree on SAM.
Departs:
    - eps, which the papers lack, is davda54's and pytorch_optimizer's 1e-12; 0 gives optax's.
    - eta is 0 as in those two; the ASAM paper has 0.01 for weights and leaves out biases.
    - LookSAM's norms are of the whole gradient, as in the paper; pytorch_optimizer takes each array's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from isostep import nm
from isostep.averaging import check_swappable
from isostep.backend import backend as find_backend
from isostep.domains import Flag, Real
from isostep.rule import Rule
from isostep.schedules.base import check
from isostep.state import StepError, aligned, arranged, as_list, labels


def measure(p: Any, g: Any, t: int, /, *, adaptive: bool, eta: Any) -> dict[str, Any]:
    """The squares whose sum over all arrays is the squared norm."""
    scaled = (nm.abs(p) + eta) * g if adaptive else g
    return {"squared_norm": scaled * scaled}


def update(
    p: Any,
    g: Any,
    t: int,
    /,
    *,
    rho: Any,
    adaptive: bool,
    eta: Any,
    eps: Any,
    squared_norm: Any,
) -> Any:
    """The way from the weights to where the gradient is taken: a step up."""
    scale = rho / (nm.sqrt(squared_norm) + eps)
    return scale * (nm.square(nm.abs(p) + eta) * g) if adaptive else scale * g


RULE = Rule(
    name="sam",
    update=update,
    measure=measure,
    hyper={
        "rho": Real(0.05, low=0, doc="length of the way"),
        "adaptive": Flag(False, doc="ASAM: lengths relative to the weights"),
        "eta": Real(0.0, low=0, doc="added to the weights' magnitudes, for ASAM"),
        "eps": Real(1e-12, low=0, doc="added to the norm"),
    },
)


class SAM:
    """Perturbs weights and puts them back, whatever happens.

    Args:
        backend: a backend or its name.
        rho: how far; ``adaptive``, ``eta``, ``eps``: see the module.
    """

    def __init__(
        self,
        backend: Any,
        rho: float = 0.05,
        *,
        adaptive: bool = False,
        eta: float = 0.0,
        eps: float = 1e-12,
    ) -> None:
        self.backend = find_backend(backend) if isinstance(backend, str) else backend
        self.rule = RULE.bind(rho=rho, adaptive=adaptive, eta=eta, eps=eps)

    @contextmanager
    def perturbed(self, params: Any, grads: Any) -> Iterator[Any]:
        """Within the context the weights are those at w + e; after it they are what they were, to the bit.

        Where arrays cannot be changed (JAX), new ones are handed out. Parameters whose gradient is None stay.
        A gradient of zeros, or with NaN or infinity, is followed like any other: what it makes of the weights
        ends with the context.

        Raises:
            StepError: the gradients are not those of the weights, or weights cannot be written; none is then changed.
        """
        backend, arrays = self.backend, as_list(params)
        if not backend.in_place:
            yield backend.step(self.rule, params, grads, backend.init(self.rule, params))[0]
            return
        check_swappable(backend, "sam", arrays)
        with backend.quiet():
            saved = [backend.write(backend.zeros_like(p), p) for p in arrays]
        try:
            backend.step(self.rule, params, grads, backend.init(self.rule, params))
            yield params
        finally:
            with backend.quiet():
                for p, a in zip(arrays, saved, strict=True):
                    backend.write(p, a)

    def gradient(self, gradient: Callable[[Any], Any], params: Any) -> Any:
        """The gradient at w + e, for ``gradient(params) -> grads``, which is called twice."""
        with self.perturbed(params, gradient(params)) as away:
            return gradient(away)


class LookSAM:
    """SAM's second gradient every ``k`` times only; in between its part across the gradient is used again.

    Args:
        sam: what perturbs.
        k: every k-th time.
        alpha: weight of the part that is used again.
    """

    _keys: list[Any] | None = None  # of the parameters that ``across`` is in the order of

    def __init__(self, sam: SAM, *, k: int = 5, alpha: float = 0.7) -> None:
        check("looksam", "k", k, at_least=1, whole=True, hint="pass 1 for SAM itself")
        check("looksam", "alpha", alpha, at_least=0, hint="pass a weight such as 0.7")
        self.sam, self.k, self.alpha = sam, k, alpha
        self.count = 0
        self.across: list[Any] = []

    def gradient(self, gradient: Callable[[Any], Any], params: Any) -> Any:
        """The gradient to step with, for ``gradient(params) -> grads``; ``count`` times were before.

        A parameter whose gradient is None has none to step with.

        Raises:
            StepError: other arrays than before.
        """
        first = gradient(params)
        arrays = aligned(self.sam.rule, "gradient", params, first)
        with self.sam.backend.quiet():
            if self.count % self.k:
                across = self._checked(params, arrays)
                scale = self.alpha * nm.sqrt(dot(arrays, arrays) / _positive(dot(across, across)))
                used = [_plus(g, scale, v) for g, v in zip(arrays, across, strict=True)]
                self.count += 1
                return arranged(params, used)
            # the caller may reuse its arrays for the second gradient
            own = [None if g is None else 1.0 * g for g in arrays]
        with self.sam.perturbed(params, first) as away:
            second = gradient(away)
        arrays = aligned(self.sam.rule, "gradient", params, second)
        with self.sam.backend.quiet():
            along = dot(arrays, own) / _positive(dot(own, own))
            self.across = [_plus(s, -along, g) for s, g in zip(arrays, own, strict=True)]
            self._keys = list(params) if isinstance(params, Mapping) else None
        self.count += 1
        return second

    def _checked(self, params: Any, arrays: list[Any]) -> list[Any]:
        """The part across that is kept, in the order of ``params``; raises unless it is of arrays like these."""
        if len(arrays) != len(self.across):
            message = f"looksam: has {len(self.across)} arrays, got {len(arrays)} gradients"
            raise StepError(message)
        across = self.across
        if self._keys is not None and isinstance(params, Mapping):
            named = dict(zip(self._keys, across, strict=True))
            across = aligned(self.sam.rule, "the part across", params, named)
        for label, g, v in zip(labels(params), arrays, across, strict=True):
            if g is not None and v is not None and tuple(g.shape) != tuple(v.shape):
                wanted, got = tuple(v.shape), tuple(g.shape)
                message = f"looksam: gradient of {label} must have shape {wanted}, got {got}"
                raise StepError(message)
        return across


def dot(a: list[Any], b: list[Any]) -> Any:
    """The dot product of two lists of arrays, of those that are in both: a 0-d array, 0 if there is none."""
    both = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    products = [nm.sum(widened(x) * widened(y)) for x, y in both]
    return sum(products[1:], products[0]) if products else 0.0


def widened(x: Any) -> Any:
    """Halves as float32: as halves their products overflow, and sums of these stand still."""
    xp = nm.namespace(x)
    return xp.astype(x, xp.float32) if str(x.dtype).endswith("float16") else x


def _plus(x: Any, factor: Any, y: Any) -> Any:
    """x + factor * y, rounded once to the dtype of x; without y that is x."""
    if x is None or y is None:
        return x
    return nm.namespace(x).astype(widened(x) + factor * widened(y), x.dtype)


def _positive(square: Any) -> Any:
    """A squared norm to divide by: 1 where it is 0, as what is divided is 0 then."""
    return nm.where(square > 0, square, 1.0)


__all__ = ["SAM", "LookSAM", "dot", "widened"]
