"""The devices that arrays were put on, and what is said where those do not meet. Under jit JAX sees to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from isostep.state import StepError


def placed(a: Any) -> set[jax.Device] | None:
    """The devices that an array was put on; None where it may be on any, or is traced."""
    if not isinstance(a, jax.Array) or isinstance(a, jax.core.Tracer) or not a.committed:
        return None
    return a.sharding.device_set


def check_like(name: str, label: str, p: Any, v: Any) -> None:
    """What meets a parameter must be on its devices."""
    there, here = placed(v), placed(p)
    if there is not None and here is not None and there != here:
        message = (
            f"{name}: {label} must be on {_named(here)} like the parameter, got {_named(there)}; "
            "move it with jax.device_put"
        )
        raise StepError(message)


def check_shared(name: str, label: str, leaves: Sequence[Any], v: Any) -> None:
    """What meets every parameter must be on the devices of all."""
    if placed(v) is not None:
        for p in leaves:
            check_like(name, label, p, v)


def check_together(name: str, leaves: Sequence[Any]) -> None:
    """Parameters that meet one another must be on the same devices."""
    first: tuple[int, Any] | None = None
    for i, p in enumerate(leaves):
        own = placed(p)
        if own is None:
            continue
        first = first or (i, own)
        if own != first[1]:
            message = (
                f"{name}: leaves that are taken together must be on the same devices, got leaf {first[0]} on "
                f"{_named(first[1])} and leaf {i} on {_named(own)}; move them with jax.device_put"
            )
            raise StepError(message)


def _named(devices: set[jax.Device]) -> str:
    return ", ".join(sorted(map(str, devices)))
