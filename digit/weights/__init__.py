"""Weights on disk: artifacts of ours, and the files beneath them."""
