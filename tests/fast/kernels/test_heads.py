import torch
import torch.nn.functional as F

from digit.fast.kernels import heads
from digit.fast.kernels.heads import Heads


def test_heads_and_their_gradients_are_those_of_a_product_that_is_split(monkeypatch):
    monkeypatch.setattr(heads, "STRIPS", 2)  # so that each has several turns
    torch.manual_seed(0)
    shapes = ((3 * 7, 24), (72, 24), (72,))
    inputs = [torch.randn(*shape).requires_grad_() for shape in shapes]
    found = Heads.apply(*inputs, 3, 4)
    wanted = F.linear(*inputs).view(3, 7, 3, 4, 6).permute(2, 0, 3, 1, 4).unbind(0)
    given = [torch.randn_like(each) for each in wanted]
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == (3, 4, 7, 6)
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    for a, b in zip(*(torch.autograd.grad(y, inputs, given) for y in (found, wanted)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
