"""Without Triton there are no kernels to test; without a GPU its interpreter runs them (tests/conftest.py)."""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("triton") else ["test_*.py"]
