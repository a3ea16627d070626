"""isostep for PyTorch.

So far the generic path as a backend, ``isostep.backend("torch:loop")``: every rule, on any device, in place.
"""

from isostep.version import VERSION as __version__
from isostep_torch.backend import TorchLoop

__all__ = ["TorchLoop", "__version__"]
