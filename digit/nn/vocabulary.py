"""fairseq's vocabulary: five special symbols, then the codes. Only imported models know the specials.

Models of ours score codes and nothing else. An imported model was trained to score the specials too: the
softmax of its loss and of its top-p runs over all of them. So it keeps their rows. The end is predicted after
the last code, the others never occur as targets, and none of them is ever drawn.
"""

from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

Specials = Literal[0, 5]  # none, or fairseq's: <s>, <pad>, </s>, <unk>, <n>; code k has id 5 + k

PAD, END, MASK = 1, 2, 3  # ids; END also starts a sequence


def with_end(codes: Int[Tensor, "b n"], specials: int) -> Int[Tensor, "b n+1"]:
    """The ids of codes in fairseq's vocabulary, and the end."""
    end = torch.full((len(codes), 1), END, dtype=codes.dtype, device=codes.device)
    return torch.cat((codes + specials, end), dim=1)
