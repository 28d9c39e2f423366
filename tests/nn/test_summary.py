"""Stages say in one line what they are."""

import digit
from digit.nn.summary import in_a_line


def test_every_stage_is_one_line(flow):
    pipeline = digit.DigitPipeline.from_pretrained(flow.all)
    parts = [pipeline.prior, pipeline.vqgan, pipeline.tokenizer, pipeline.tokenizer.encoder]
    parts += [pipeline.renderer, pipeline.renderer_masked, pipeline.renderer_flow]
    for part in parts:
        said = repr(part)
        assert said.startswith(f"{type(part).__name__}(") and said.endswith(" parameters, cpu)"), said
        assert "\n" not in said and len(said) < 120
    assert "vit_tiny_patch16_224 at 16 px, 8 codes, 4 x 4 a picture" in repr(pipeline.tokenizer)


def test_millions_are_said_in_short():
    import torch

    assert in_a_line(torch.nn.Linear(1000, 1000), "a fact") == "Linear(a fact, 1M parameters, cpu)"
    assert in_a_line(torch.nn.Identity()) == "Identity(0 parameters, no device)"
