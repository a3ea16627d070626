"""isostep for JAX.

So far the jitted generic path as a backend, ``isostep.backend("jax:jit")``: every rule, scalars accurate in float32.
"""

from isostep.version import VERSION as __version__
from isostep_jax.backend import JaxJit

__all__ = ["JaxJit", "__version__"]
