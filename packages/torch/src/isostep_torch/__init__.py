"""isostep for PyTorch.

So far two paths as backends: ``isostep.backend("torch:fused")``, compiled passes over all CPU tensors, and
``"torch:loop"``, the generic path on any device. Both change parameters in place, outside autograd.
"""

from isostep.version import VERSION as __version__
from isostep_torch.loop import TorchLoop

__all__ = ["TorchLoop", "__version__"]
