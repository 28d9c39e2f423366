"""Two sums in one pass: for Triton's `reduce` over a pair of tensors."""

from typing import no_type_check

import triton


@triton.jit
@no_type_check
def add_pairs(first, second, other_first, other_second):
    """The sums of the firsts and of the seconds."""
    return first + other_first, second + other_second
