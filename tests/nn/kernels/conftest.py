"""Triton's kernels run by its interpreter where there is no GPU; without Triton there is nothing to test."""

import importlib.util
import os

import torch

collect_ignore_glob = [] if importlib.util.find_spec("triton") else ["test_*.py"]
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
