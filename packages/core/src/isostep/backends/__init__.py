"""The backends that need nothing but NumPy (and Numba for the fused path)."""
