"""The network in JAX, differentiated by jax.grad and compiled by jax.jit."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def _logits(params: list[Any], x: Any) -> Any:
    w1, b1, w2, b2 = params
    # On a GPU JAX would otherwise multiply float32 matrices in TF32, with 10 bits of mantissa.
    h = jnp.tanh(jnp.matmul(x, w1, precision="highest") + b1)
    return jnp.matmul(h, w2, precision="highest") + b2


def _loss(params: list[Any], x: Any, y: Any) -> Any:
    log_p = jax.nn.log_softmax(_logits(params, x))
    return -jnp.take_along_axis(log_p, y[:, None], axis=1).mean()


class JaxNet:
    """tanh network with softmax cross-entropy on JAX arrays, on JAX's default device."""

    def __init__(self, dtype: str) -> None:
        """Switch JAX's 64-bit mode on where the run needs it."""
        if dtype == "float64":
            jax.config.update("jax_enable_x64", True)
        self.device = str(jax.devices()[0]).lower()
        self.gradients = "jax.grad under jax.jit"
        self.logits = jax.jit(_logits)
        self.loss_and_grads = jax.jit(jax.value_and_grad(_loss))

    def put(self, array: Any) -> jax.Array:
        """Copy a NumPy array to where the network computes."""
        return jnp.array(array)

    def wait(self, arrays: Any) -> None:
        """Return when these arrays are computed."""
        jax.block_until_ready(arrays)
