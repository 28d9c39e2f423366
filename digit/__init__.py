"""Image generation on discriminative tokens (DiGIT, arXiv:2410.12490)."""

__version__ = "0.1.0"
