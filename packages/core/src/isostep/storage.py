"""How the arrays of a step are kept in memory, where that is not just as the rule sees them.

A rule computes with whole numbers of the compute dtype and knows nothing of this. Backends whose kernels load and
store (``lower.fused``) take a state that is kept otherwise; every other backend refuses it, and a framework that
offers the options there opens and closes the arrays around the step (``isostep_torch.storage``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

#: What half-precision parameters can have beside their state: the parameter in the dtype of the arithmetic, with
#: which steps are taken; and what the parameter's dtype could not hold of it (Kahan), which the next step adds to it.
MASTER, LOST = "master_weight", "kahan_compensation"
#: What kernels call the seed of the noise, and what gradients are multiplied by.
SEED, FACTOR = "rounding_seed", "gradient_factor"
HALVES = ("bfloat16", "float16")


@dataclass(frozen=True)
class Storage:
    """The dtype of the state's arrays (None: their parameter's), what is kept beside them, how halves are rounded.

    With ``stochastic`` every half-precision array is stored with the noise of ``isostep_torch.rounding``; ``scaled``
    gradients are multiplied by a number as they are loaded.
    """

    state: str | None = None
    beside: str | None = None
    stochastic: bool = False
    scaled: bool = False

    def of(self, dtype: str) -> Storage:
        """What of it matters for parameters of this dtype."""
        half = dtype in HALVES
        return replace(
            self,
            state=None if self.state == dtype else self.state,
            beside=self.beside if half else None,
            stochastic=self.stochastic and (half or self.state in HALVES),
        )

    def dtype_of(self, name: str, dtype: str) -> str:
        """The dtype of a state array, or of what is beside it, of a parameter of ``dtype``."""
        if name == self.beside:
            return "float32" if name == MASTER else dtype
        return self.state or dtype


#: Everything in the parameter's dtype, rounded to nearest.
PLAIN = Storage()


@dataclass
class Handling:
    """The numbers of a step that are not the rule's: of the noise the seed and each parameter's own, and the factor."""

    seed: int = 0
    places: Sequence[int] = ()
    factor: float = 1.0
