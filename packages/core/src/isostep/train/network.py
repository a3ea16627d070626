"""Small networks, written once in array-API form, so that every backend computes the same loss.

A dense network is a list of layers ``x @ w + b`` with an activation between them; a convolution of 3 x 3 pixels is
the same product on nine shifted copies of the image. The gradient is the framework's own where its backend
differentiates (``backend.value_and_grad``), else written out by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isostep import nm


def _relu(z: Any) -> Any:
    # Not maximum: what frameworks take for its derivative at a tie differs.
    return nm.where(z > 0, z, 0.0 * z)


#: name -> (function, its derivative from the function's value)
ACTIVATIONS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "relu": (_relu, lambda h: nm.where(h > 0, 0.0 * h + 1.0, 0.0 * h)),
    "tanh": (nm.tanh, lambda h: 1.0 - h * h),
}


@dataclass(frozen=True)
class Network:
    """Layers by name: ``dense`` widths after ``conv`` blocks (``"pool"`` or a number of channels).

    ``shape`` is that of an input image (height, width, channels).
    """

    shape: tuple[int, ...]
    dense: tuple[int, ...]
    conv: tuple[int | str, ...] = ()
    activation: str = "relu"

    def layers(self) -> list[tuple[int, int]]:
        """Inputs and outputs of every layer, convolutions first."""
        height, width, channels = self.shape
        found = []
        for block in self.conv:
            if isinstance(block, str):
                height, width = height // 2, width // 2
            else:
                found.append((9 * channels, block))
                channels = block
        size = height * width * channels
        for out in self.dense:
            found.append((size, out))
            size = out
        return found

    def weights(self, seed: int, dtype: str) -> list[np.ndarray]:
        """First weights: normal with variance 2 / inputs (1 / inputs for tanh), biases 0; rounded from float64."""
        random = np.random.default_rng([seed, 0])
        gain = 2.0 if self.activation == "relu" else 1.0
        found: list[np.ndarray] = []
        for rows, columns in self.layers():
            w = np.sqrt(gain / rows) * random.standard_normal((rows, columns))
            found += [w.astype(dtype), np.zeros(columns, dtype)]
        return found

    def logits(self, params: Sequence[Any], x: Any) -> Any:
        """The score of every class, [n, classes], for images [n, height, width, channels]."""
        act = ACTIVATIONS[self.activation][0]
        rest = list(params)
        for block in self.conv:
            if isinstance(block, str):
                x = _pooled(x)
            else:
                w, b, *rest = rest
                x = act(_patches(x) @ w + b)
        x = nm.reshape(x, (x.shape[0], -1))
        while len(rest) > 2:
            w, b, *rest = rest
            x = act(x @ w + b)
        w, b = rest
        return x @ w + b

    def loss(self, params: Sequence[Any], x: Any, onehot: Any) -> Any:
        """The mean cross-entropy; ``onehot`` is [n, classes]."""
        return cross_entropy(self.logits(params, x), onehot)

    def gradients(self, backend: Any) -> Callable[..., tuple[Any, list[Any]]]:
        """``(params, x, onehot) -> (loss, gradients)`` on a backend's arrays."""
        differentiate = getattr(backend, "value_and_grad", None)
        found = differentiate(self.loss) if differentiate is not None else None
        return self.by_hand if found is None else found

    def by_hand(self, params: Sequence[Any], x: Any, onehot: Any) -> tuple[Any, list[Any]]:
        """Backpropagation written out, for arrays whose library does not differentiate."""
        loss, grads, _ = self._back([*self.conv, None], params, x, onehot, first=True)
        return loss, grads

    def _back(
        self,
        blocks: Sequence[Any],
        params: Sequence[Any],
        x: Any,
        onehot: Any,
        *,
        first: bool = False,
    ) -> tuple[Any, list[Any], Any]:
        """The loss from here on, the gradients of these params, and that of x unless nothing is before it."""
        act, slope = ACTIVATIONS[self.activation]
        block, *rest = blocks or (0,)
        if block == "pool":
            loss, grads, dx = self._back(rest, params, _pooled(x), onehot)
            return loss, grads, _spread(dx, x.shape)
        if block is None:  # from here on images are rows
            flat = nm.reshape(x, (x.shape[0], -1))
            loss, grads, dx = self._back(rest, params, flat, onehot, first=first)
            return loss, grads, None if dx is None else nm.reshape(dx, x.shape)
        w, b, *others = params
        xp = nm.namespace(x)
        inputs = x if block == 0 else _patches(x)
        z = inputs @ w + b
        grads = []
        if others:
            h = act(z)
            loss, grads, dh = self._back(rest, others, h, onehot)
            dz = dh * slope(h)
        else:
            loss = cross_entropy(z, onehot)
            e = nm.exp(z - xp.max(z, axis=1, keepdims=True))
            dz = (e / xp.sum(e, axis=1, keepdims=True) - onehot) / z.shape[0]
        rows, columns = nm.reshape(inputs, (-1, w.shape[0])), nm.reshape(dz, (-1, w.shape[1]))
        grads = [nm.transpose(rows) @ columns, xp.sum(columns, axis=0), *grads]
        if first:
            return loss, grads, None
        return loss, grads, dz @ nm.transpose(w) if block == 0 else _patches(dz) @ _turned(w)


def cross_entropy(z: Any, onehot: Any) -> Any:
    """The mean of -log of the softmax at the label."""
    xp = nm.namespace(z)
    z = z - xp.max(z, axis=1, keepdims=True)
    picked = xp.sum(z * onehot, axis=1)
    return xp.mean(nm.log(xp.sum(nm.exp(z), axis=1)) - picked)


def _patches(x: Any) -> Any:
    """Every pixel with its eight neighbours, zeros outside: [n, h, w, c] -> [n, h, w, 9 c]."""
    xp = nm.namespace(x)
    _, h, w, _ = x.shape
    column = 0.0 * x[:, :, :1, :]
    x = xp.concat([column, x, column], axis=2)
    row = 0.0 * x[:, :1, :, :]
    x = xp.concat([row, x, row], axis=1)
    return xp.concat([x[:, i : i + h, j : j + w, :] for i in range(3) for j in range(3)], axis=3)


def _pooled(x: Any) -> Any:
    """The mean of each 2 x 2 pixels. Not the maximum: what frameworks do at ties differs."""
    n, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2, :]
    xp = nm.namespace(x)
    return xp.mean(nm.reshape(x, (n, h // 2, 2, w // 2, 2, c)), axis=(2, 4))


def _turned(w: Any) -> Any:
    """The weights of the convolution that takes gradients back: each kernel turned by half, [9 i, o] -> [9 o, i]."""
    xp = nm.namespace(w)
    rows, out = w.shape
    kernels = xp.flip(nm.reshape(w, (9, rows // 9, out)), axis=0)
    return nm.reshape(xp.permute_dims(kernels, (0, 2, 1)), (9 * out, rows // 9))


def _spread(d: Any, shape: tuple[int, ...]) -> Any:
    """The gradient of ``_pooled``: a quarter to each of four pixels, nothing to an odd last row or column."""
    xp = nm.namespace(d)
    n, h, w, c = shape
    four = xp.broadcast_to(0.25 * d[:, :, None, :, None, :], (n, h // 2, 2, w // 2, 2, c))
    whole = nm.reshape(four, (n, h // 2 * 2, w // 2 * 2, c))
    if w % 2:
        whole = xp.concat([whole, 0.0 * whole[:, :, :1, :]], axis=2)
    return xp.concat([whole, 0.0 * whole[:, :1, :, :]], axis=1) if h % 2 else whole


#: Models by name: (convolutions, hidden widths) for small images (up to 8 x 8) and for larger ones.
MODELS: dict[str, tuple[tuple[Any, Any], tuple[Any, Any]]] = {
    "logreg": (((), ()), ((), ())),
    "mlp": (((), (100, 100)), ((), (1000, 1000))),
    "cnn": (((16, "pool", 32, "pool"), ()), ((32, "pool", 64, "pool"), (128,))),
    "vgg": (
        ((32, 32, "pool", 64, 64, "pool"), (128,)),
        ((64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool"), (512,)),
    ),
}


def network(model: str, shape: tuple[int, ...], classes: int, hidden: Any = None) -> Network:
    """A model for images of a shape; ``hidden`` replaces its hidden widths."""
    conv, widths = MODELS[model][max(shape[:2]) > 8]
    return Network(shape, (*(widths if hidden is None else hidden), classes), conv)
