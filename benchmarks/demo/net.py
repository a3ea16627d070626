"""The network of the demo: isostep's own (``isostep.train``), with each framework's gradients, on its device."""

from __future__ import annotations

from typing import Any

from task import CLASSES, HIDDEN

from isostep.train import Network

SHAPE = (8, 8, 1)


class Net:
    """tanh network with softmax cross-entropy on a backend's arrays; this class itself is NumPy's."""

    device = "cpu"

    def __init__(self, backend: Any, dtype: str) -> None:
        """Let the backend differentiate, or the network by hand where the backend does not."""
        network = Network(SHAPE, (HIDDEN, CLASSES), activation="tanh")
        by_hand = backend.value_and_grad(network.loss) is None
        self.gradients = "hand-written backprop" if by_hand else "automatic differentiation"
        self.loss_and_grads, self.logits = network.gradients(backend), network.logits
        self.put = backend.asarray

    def wait(self, arrays: Any) -> None:
        """Return when these arrays are computed."""


class TorchNet(Net):
    """On the GPU where there is one; on one CPU thread, as more only wait for each other at this size."""

    def __init__(self, backend: Any, dtype: str) -> None:
        import torch

        super().__init__(backend, dtype)
        torch.set_num_threads(1)
        if torch.cuda.is_available():
            self.device = "cuda:0"
            self.put = lambda array: backend.asarray(array).to(self.device)

    def wait(self, arrays: Any) -> None:
        if self.device != "cpu":
            import torch

            torch.cuda.synchronize()


class JaxNet(Net):
    """On JAX's default device, in its 64-bit mode where the run needs it."""

    def __init__(self, backend: Any, dtype: str) -> None:
        import jax

        if dtype == "float64":
            jax.config.update("jax_enable_x64", True)
        super().__init__(backend, dtype)
        self.device = str(jax.devices()[0]).lower()
        self.logits = jax.jit(self.logits)

    def wait(self, arrays: Any) -> None:
        import jax

        jax.block_until_ready(arrays)


class CupyNet(Net):
    """On the current GPU."""

    def __init__(self, backend: Any, dtype: str) -> None:
        import cupy

        super().__init__(backend, dtype)
        self.device = f"cuda:{cupy.cuda.Device().id}"

    def wait(self, arrays: Any) -> None:
        import cupy

        cupy.cuda.get_current_stream().synchronize()


NETS: dict[str, type[Net]] = {"numpy": Net, "torch": TorchNet, "jax": JaxNet, "cupy": CupyNet}
