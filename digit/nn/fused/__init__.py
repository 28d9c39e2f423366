"""Training kernels: all that a post-norm block computes between its matrix products."""
