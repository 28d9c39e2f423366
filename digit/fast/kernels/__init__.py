"""Triton kernels; each file holds one and the function that launches it. On a CPU none is imported."""
