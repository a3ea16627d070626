"""What the JAX paths do not do, as data: see ``isostep_conformance.gaps``."""

from __future__ import annotations

from typing import Any


def gaps() -> list[Any]:
    """Every rule runs on both paths in every dtype; a few things that XLA does are not the contract's."""
    return [
        {
            "word": "notyet",
            "reason": "https://github.com/openxla/xla/issues/22858 (XLA's CPU code flushes denormals to zero)",
            "path": "jax:*",
            "check": "denormals",
            "partly": True,
        },
        {
            "word": "notyet",
            "reason": "https://github.com/openxla/xla/issues/22858; what is divided by a huge norm is a denormal",
            "path": "jax:*",
            "rule": "normalize_gradient+*",
            "check": "huge",
            "partly": True,
        },
        {
            "word": "notyet",
            "reason": "XLA folds sqrt(x * x) to |x|, seen on arrays of one element: finite where the square overflows",
            "path": "jax:*",
            "rule": "*adaptive_clip+*",
            "check": "huge",
            "partly": True,
        },
        {
            "word": "notyet",
            "reason": "XLA folds sqrt(x * x) to |x|, seen on arrays of one element: finite where the square overflows",
            "path": "jax:*",
            "rule": (
                "mars",
                "clip_by_norm+*",
                "adamp",
                "adanorm",
                "apollo",
                "fromage",
                "lars",
                "ldog",
                "psgd_kron",
                "ranger21",
                "scion",
                "sgd_sai",
            ),
            "check": "huge",
            "partly": True,
        },
        {
            "word": "never",
            # Isolated: with xla_cpu_max_isa=AVX, which has no fma, every one of these cases passes.
            "reason": "XLA contracts a * b + c, as the contract allows: no infinity where the product alone overflows",
            "path": "jax:*",
            "rule": ("*sgd_hd*", "rmsprop"),
            "check": "huge",
            "partly": True,
        },
        {
            "word": "notyet",
            # Isolated: under jit x / 6 has the bits of x * (1 / 6), whether 6 is a constant or an argument.
            "reason": "XLA makes x / n of a scalar n x * (1 / n): the mean of equal numbers is off by a bit",
            "path": "jax:*",
            "rule": ("centralize+adamw", "ranger"),
            "check": "exact",
            "partly": True,
        },
        {
            "word": "notyet",
            # Isolated: of the same matrix jnp.linalg.eigh is all NaN, numpy's and torch's are not.
            "reason": "jnp.linalg.eigh adds a matrix to its transpose: NaN from half of the largest number on",
            "path": "jax:*",
            "rule": "shampoo",
            "check": "huge",
            "partly": True,
        },
        {
            "word": "never",
            # Isolated: on the device (1 - beta) / -expm1(log(beta)) is 1 - 2**-53, on the host 1.
            "reason": "a scalar of t is an ulp off on the device, as the contract allows; a sum that cancels shows it",
            "path": "jax:*",
            "rule": "apollo",
            "dtype": "float64",
            "check": "run",
            "partly": True,
        },
        {
            "word": "never",
            # Isolated: with a second decay rate of 0.844 rho is 4.33 at t = 5, and in float32 rho - 4 is 14 ulp off.
            "reason": "rho - 4 of the first rectified step is a difference of float32 scalars: 22 of 64, too near",
            "path": "jax:*",
            "rule": "schedule_free_radam",
            "dtype": "float32",
            "check": "run",
            "partly": True,
        },
        {
            "word": "notimpl",
            "reason": "XLA makes x / sqrt(s) x * rsqrt(s) where s has one user: a leaf alone is off by a bit",
            "path": "jax:*",
            "check": "grouping_bits",
            "partly": True,
        },
    ]
