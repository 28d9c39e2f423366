"""Published files as modules: what a file holds, what belongs together, and what does not."""

from pathlib import Path

import pytest
import torch
from tests_support import FIXTURES

from digit.errors import DigitError, LineageError
from digit.features import Encoder
from digit.nn.linear_probe import Probe
from digit.prior import Prior
from digit.renderer import Renderer
from digit.renderer_masked import MaskedRenderer
from digit.tokenizer import Tokenizer
from digit.vqgan import VQGAN
from digit.weights.artifact import identity, save
from digit.weights.conversion import convert_file
from digit.weights.foreign import read

KINDS = {
    "stage1_uncond": Prior,
    "stage1_cls": Prior,
    "vq_only": Prior,
    "linear_probe": Probe,
    "stage2_ar": Renderer,
    "stage2_nar": MaskedRenderer,
}


@pytest.mark.parametrize("name", KINDS)
def test_a_checkpoint_says_what_it_is(name):
    module, lineage = convert_file(FIXTURES / f"{name}.pt", encoder_heads=3)
    assert type(module) is KINDS[name]
    wanted = {"linear_probe": {"prior"}, "vq_only": {"vqgan"}}.get(name, {"tokenizer"})
    assert wanted <= set(lineage)


def test_networks_without_a_checkpoint_are_known_by_their_tensors(tmp_path):
    state = read(FIXTURES / "stage2_ar.pt")["model"]
    for prefix, kind in (("pretrained_encoder.", Encoder), ("vqgan.", VQGAN)):
        part = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        torch.save(part, tmp_path / "file.pt")
        module, lineage = convert_file(tmp_path / "file.pt", encoder_heads=3)
        assert type(module) is kind and not lineage


def test_the_lineage_names_the_copies_in_the_file():
    """What a checkpoint was trained with is what its own copies are, taken out one by one."""
    for name, parts in {"stage1_cls": ("tokenizer",), "stage2_ar": ("tokenizer", "vqgan")}.items():
        file = FIXTURES / f"{name}.pt"
        _, lineage = convert_file(file, encoder_heads=3)
        heads = {"tokenizer": 3, "vqgan": None}
        copies = {part: convert_file(file, part=part, encoder_heads=heads[part])[0] for part in parts}
        assert lineage == {part: identity(copy) for part, copy in copies.items()}
        assert isinstance(copies["tokenizer"], Tokenizer)
    prior, none = convert_file(FIXTURES / "linear_probe.pt", part="prior")
    _, lineage = convert_file(FIXTURES / "linear_probe.pt")
    assert lineage == {"prior": identity(prior)} and not none


def test_a_tokenizer_that_was_not_trained_with_is_refused(tmp_path):
    module, _ = convert_file(FIXTURES / "stage1_cls.pt", part="tokenizer", encoder_heads=3)
    module.centroids[0] += 1
    save(module, tmp_path / "other", extra={"size": 256})
    with pytest.raises(LineageError, match="other"):
        convert_file(FIXTURES / "stage1_cls.pt", tokenizer=tmp_path / "other")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("km.npy", {}, "--encoder"),
        ("km.npy", {"part": "vqgan"}, "--part"),
        ("stage1_cls.pt", {"part": "vqgan"}, "no VQGAN"),
        ("stage1_cls.pt", {"part": "prior"}, "no linear probe"),
        ("stage1_cls.pt", {"part": "tokenizer"}, "--encoder-heads"),
        ("stage1_cls.pt", {"tokenizer": Path("nowhere")}, "nowhere"),
    ],
)
def test_what_does_not_go_together(name, options, words):
    with pytest.raises(DigitError, match=words):
        convert_file(FIXTURES / name, **options)
