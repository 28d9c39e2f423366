"""The ViT's form for inference: equal to the module it was made from."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from digit.nn.backbone import timm
from digit.nn.vit import InferenceViT, unsupported

SMALL = {"num_classes": 0, "global_pool": "", "embed_dim": 24, "depth": 3, "num_heads": 3}
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
NETWORKS = {
    "vit_tiny_patch16_224": {"img_size": 16, "patch_size": 4},
    "vit_base_patch14_reg4_dinov2": {"img_size": 28},
    "vit_base_patch14_dinov2": {"img_size": 42},
}


def network(name: str, **settings: object) -> nn.Module:
    torch.manual_seed(0)
    vit = timm().create_model(name, **SMALL, **NETWORKS[name], **settings).eval()
    with torch.no_grad():  # every parameter matters: timm starts biases at zero and LayerScale at 1e-5
        for parameter in vit.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return vit


def expected(vit: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        return vit.forward_features((pixels - mean) / std)


@pytest.mark.parametrize("name", list(NETWORKS))
@pytest.mark.parametrize("depth", [3, 1])
def test_features_are_the_modules(name, depth):
    vit = network(name)
    vit.prune_intermediate_layers([depth - 1], prune_norm=depth == 1, prune_head=True)
    size = NETWORKS[name]["img_size"]
    bytes_ = torch.randint(256, (5, 3, size, size), dtype=torch.uint8)
    form = InferenceViT(vit, MEAN, STD, dtype=torch.float32, gelu="erf")
    assert len(form.blocks) == depth
    truth = expected(vit, bytes_ / 255)
    torch.testing.assert_close(form(bytes_), truth, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(form(bytes_.float() / 255), truth, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_close(dtype):
    vit = network("vit_base_patch14_reg4_dinov2")
    pixels = torch.rand(3, 3, 28, 28)
    truth = expected(vit, pixels)
    found = InferenceViT(vit, MEAN, STD, dtype=dtype)(pixels)
    assert found.dtype == dtype
    error = (found.float() - truth).norm() / truth.norm()
    assert error < (2e-3 if dtype == torch.float16 else 2e-2)


def test_other_sizes_are_resized_as_the_encoder_resizes_them():
    vit = network("vit_tiny_patch16_224")
    bytes_ = torch.randint(256, (2, 3, 20, 20), dtype=torch.uint8)
    form = InferenceViT(vit, MEAN, STD, dtype=torch.float32, gelu="erf")
    resized = F.interpolate(bytes_ / 255, size=(16, 16), mode="bicubic", align_corners=False)
    torch.testing.assert_close(form(bytes_), expected(vit, resized), rtol=1e-4, atol=1e-4)


def test_what_it_cannot_be_made_of_is_named():
    assert unsupported(network("vit_tiny_patch16_224")) is None
    assert unsupported(nn.Identity()) == "it is no plain ViT of timm"
    cases = {
        "norms or gates": {"qk_norm": True},
        "SwiGLU": {"mlp_layer": timm().layers.SwiGLU},
        "norm_pre": {"pre_norm": True},
        "ReLU": {"act_layer": nn.ReLU},
        "positions": {"dynamic_img_size": True},
    }
    for words, settings in cases.items():
        reason = unsupported(network("vit_tiny_patch16_224", **settings))
        assert reason is not None and words in reason, words
    with pytest.raises(ValueError, match="norm_pre"):
        InferenceViT(network("vit_tiny_patch16_224", pre_norm=True), MEAN, STD)
