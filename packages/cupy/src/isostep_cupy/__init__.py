"""isostep for CuPy.

So far the generic path as a backend, ``isostep.backend("cupy:generic")``: every rule, on the device, in place.
"""

from isostep.version import VERSION as __version__
from isostep_cupy.backend import CupyGeneric

__all__ = ["CupyGeneric", "__version__"]
