"""How the arrays of a step are kept in memory, where that is not just as the rule sees them.

A rule computes with whole numbers of the compute dtype and knows nothing of this: arrays are opened before it runs
and closed after it, in the same pass where kernels load and store. ``low_precision`` makes a ``Storage`` of options;
``backend.init(rule, params, storage=...)`` a state that is kept so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from isostep import blocks

if TYPE_CHECKING:
    from isostep.rule import BoundRule

#: What half-precision parameters can have beside their state: the parameter in the dtype of the arithmetic, with
#: which steps are taken; and what the parameter's dtype could not hold of it (Kahan), which the next step adds to it.
MASTER, LOST = "master_weight", "kahan_compensation"
#: What kernels call the seed of the noise, and what gradients are multiplied by.
SEED, FACTOR = "rounding_seed", "gradient_factor"
HALVES = ("bfloat16", "float16")
DTYPES = ("float64", "float32", *HALVES)
#: What state can be kept in: those, or blocks of eight bits.
STATE_DTYPES = (*DTYPES, *blocks.FORMATS)


@dataclass(frozen=True)
class Storage:
    """The dtype of the state's arrays (None: their parameter's), what is kept beside them, how halves are rounded.

    With ``stochastic`` every half-precision array is stored with the noise of ``isostep.rounding``; ``scaled``
    gradients are multiplied by a number as they are loaded. Where ``state`` is one of ``blocks.FORMATS``, ``packed``
    are the arrays that are kept so (``of_rule``), and all others have their parameter's dtype.
    """

    state: str | None = None
    beside: str | None = None
    stochastic: bool = False
    scaled: bool = False
    packed: tuple[str, ...] = ()

    @property
    def form(self) -> str | None:
        """The blocks that state is kept in."""
        return self.state if self.state in blocks.FORMATS else None

    @property
    def scales(self) -> tuple[str, ...]:
        """The arrays of the blocks' scales."""
        return tuple(n + blocks.SCALE for n in self.packed)

    @property
    def extra(self) -> tuple[str, ...]:
        """What a parameter may have beside the rule's state."""
        return self.scales if self.beside is None else (*self.scales, self.beside)

    @property
    def noisy(self) -> bool:
        """Whether anything is rounded by chance."""
        return self.stochastic or bool(self.packed)

    def number(self, name: str, names: Sequence[str]) -> int:
        """The number of an array, which its noise goes by: of the parameter 0; ``names`` are the state's."""
        if name in self.packed:
            return blocks.FIRST + self.packed.index(name)
        return 1 + names.index(name) if name in names else 0

    def of_rule(self, rule: BoundRule) -> Storage:
        """The same for the state of a rule: which of its arrays are kept in blocks.

        Those like the parameter that start as zeros, which are averages and the like; others are points, factors and
        counts, and of a rule that is evaluated elsewhere points, too.

        Raises:
            ValueError: there are none.
        """
        if self.form is None or self.packed:
            return self
        from isostep.program import starts_as_zeros  # which knows storage itself

        parts = [c for c in rule.components if getattr(c.part, "evaluate", None) is None]
        pairs = [zip(rule.state_of(c), starts_as_zeros(rule, c), strict=True) for c in parts]
        found = tuple(n for own in pairs for n, zeros in own if zeros)
        if not found:
            has = ", ".join(rule.state_names) or "none"
            message = (
                f"{rule.name}: state_dtype {self.state} is for state that starts as zeros, and none of this rule's "
                f"does ({has}); use one of {', '.join(DTYPES)}"
            )
            raise ValueError(message)
        return replace(self, packed=found)

    def of(self, dtype: str) -> Storage:
        """What of it matters for parameters of this dtype."""
        return _of(self, dtype)

    def dtype_of(self, name: str, dtype: str) -> str:
        """The dtype of a state array, or of what is beside it, of a parameter of ``dtype``."""
        if name == self.beside:
            return "float32" if name == MASTER else dtype
        if self.form is not None:
            return "uint8" if name in self.packed or name in self.scales else dtype
        return self.state or dtype

    def shape_of(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a state array like its parameter, or of what is beside it."""
        return (blocks.count(shape),) if name in self.scales else shape


@cache
def _of(storage: Storage, dtype: str) -> Storage:
    half = dtype in HALVES
    return replace(
        storage,
        state=None if storage.state == dtype else storage.state,
        beside=storage.beside if half else None,
        stochastic=storage.stochastic and (half or storage.state in HALVES),
    )


#: Everything in the parameter's dtype, rounded to nearest.
PLAIN = Storage()


#: The options of adapters about storage, with their defaults: those of ``low_precision``, and the noise's seed.
OPTIONS: dict[str, Any] = {
    "state_dtype": None,
    "stochastic_rounding": False,
    "rounding_seed": 0,
    "kahan": False,
    "master_weights": False,
}


def low_precision(
    *,
    state_dtype: str | None = None,
    stochastic_rounding: bool = False,
    kahan: bool = False,
    master_weights: bool = False,
) -> Storage:
    """How arrays are to be kept, for ``backend.init(rule, params, storage=...)``; adapters have the same options.

    Args:
        state_dtype: the dtype of state arrays; by default their parameter's. ``"mxfp8_e4m3"`` and ``"mxfp8_e5m2"`` keep
            averages in eight bits and a quarter, see ``isostep.blocks``.
        stochastic_rounding: half-precision parameters and state are rounded up or down by chance, without bias.
        kahan: a second half-precision array keeps what the parameter cannot hold.
        master_weights: a float32 copy of a half-precision parameter is what steps are taken with.

    Raises:
        ValueError: two of the last three, which do the same in different ways; or another dtype.
    """
    return taken(
        "low_precision",
        {
            "state_dtype": state_dtype,
            "stochastic_rounding": stochastic_rounding,
            "kahan": kahan,
            "master_weights": master_weights,
        },
    )[0]


def taken(name: str, options: Mapping[str, Any]) -> tuple[Storage, int]:
    """The storage and the seed that ``options`` ask for, dtypes by name; ``name`` is what errors begin with."""
    given = {**OPTIONS, **options}
    dtype, seed = given["state_dtype"], given["rounding_seed"]
    if dtype is not None and dtype not in STATE_DTYPES:
        message = (
            f"{name}: state_dtype must be None or one of {', '.join(STATE_DTYPES)}, got {dtype!r}"
        )
        raise ValueError(message)
    ways = [n for n in ("stochastic_rounding", "kahan", "master_weights") if given[n]]
    if len(ways) > 1:
        message = f"{name}: {' and '.join(ways)} do the same in different ways; set one of them"
        raise ValueError(message)
    if isinstance(seed, bool) or not isinstance(seed, int):
        message = f"{name}: rounding_seed must be an integer, got {seed!r}"
        raise ValueError(message)
    beside = {"kahan": LOST, "master_weights": MASTER}.get(ways[0]) if ways else None
    return Storage(dtype, beside, ways == ["stochastic_rounding"]), seed


def whole(stored: Any, own: dict[str, Any], held: Callable[[Any], Any], where: Any) -> Any:
    """The parameter that a step is taken with: itself and what is beside it, which leaves ``own``.

    Somebody may have written to the parameter since (a checkpoint, an average): where what is beside it is another's,
    it is the parameter alone.

    Args:
        stored: the parameter, in the compute dtype; an array, or a traced value as all that comes and goes here.
        own: its arrays by name, in the compute dtype.
        held: what the parameter's dtype holds of a value, in the compute dtype.
        where: the choice between two values by a condition.
    """
    if LOST in own:
        lost = own.pop(LOST)
        # Half of what was lost: with all of it a sum in the middle of two may round to the other.
        near, found = stored + lost * 0.5, stored + lost
    elif MASTER in own:
        near = found = own.pop(MASTER)
    else:
        return stored
    return where(held(near) == stored, found, stored)


@dataclass
class Handling:
    """The numbers of a step that are not the rule's: of the noise the seed and each parameter's own, and the factor."""

    seed: int = 0
    places: Sequence[int] = ()
    factor: Any = 1.0
