"""The ways to keep half-precision weights learning, as the benchmarks of CPU and GPU take them."""

from __future__ import annotations

from typing import Any

from isostep.storage import LOST, MASTER, Storage

#: The options of our class, and how they have arrays stored.
WAYS: dict[str, tuple[dict[str, Any], Storage]] = {
    "plain": ({}, Storage()),
    "stochastic_rounding": ({"stochastic_rounding": True}, Storage(stochastic=True)),
    "kahan": ({"kahan": True}, Storage(beside=LOST)),
    "master_weights": ({"master_weights": True}, Storage(beside=MASTER)),
    "state_dtype=float32": ({"state_dtype": "float32"}, Storage(state="float32")),
    "both of float32": (
        {"master_weights": True, "state_dtype": "float32"},
        Storage(state="float32", beside=MASTER),
    ),
    "state_dtype=mxfp8_e4m3": ({"state_dtype": "mxfp8_e4m3"}, Storage(state="mxfp8_e4m3")),
}


def options_of(way: str) -> dict[str, Any]:
    """A way's options, dtypes as torch has them; blocks of eight bits are none of its."""
    import torch

    return {n: getattr(torch, v, v) if isinstance(v, str) else v for n, v in WAYS[way][0].items()}
