"""Triton kernels of decoding on a GPU; each file holds one kernel and the function that launches it."""
