"""The network in PyTorch, differentiated by autograd."""

from __future__ import annotations

from typing import Any

import torch


class TorchNet:
    """tanh network with softmax cross-entropy on tensors, on the GPU where there is one."""

    def __init__(self) -> None:
        """Choose the device; keep to one CPU thread, more only wait for each other at this size."""
        torch.set_num_threads(1)
        self.device = "cuda:0" if torch.cuda.is_available() else "cpu"
        self.gradients = "torch.autograd"

    def put(self, array: Any) -> torch.Tensor:
        """Copy a NumPy array to where the network computes."""
        return torch.tensor(array, device=self.device)

    def logits(self, params: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        """Return the ten scores of every row."""
        w1, b1, w2, b2 = params
        return torch.tanh(x @ w1 + b1) @ w2 + b2

    def loss_and_grads(
        self, params: list[torch.Tensor], x: torch.Tensor, y: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the mean cross-entropy of a batch and its gradient for every parameter."""
        leaves = [p.detach().requires_grad_() for p in params]
        loss = torch.nn.functional.cross_entropy(self.logits(leaves, x), y)
        return loss.detach(), list(torch.autograd.grad(loss, leaves))

    def wait(self, arrays: Any) -> None:
        """Return when all work asked for so far is done."""
        if self.device != "cpu":
            torch.cuda.synchronize()
