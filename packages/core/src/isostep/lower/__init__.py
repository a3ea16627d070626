"""Lowerings: from a program to the source code of a fused kernel, and to its execution."""
