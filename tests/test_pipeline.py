"""How a pipeline decodes: by the VQGAN as it is now, in batches of its own; made anew for each call."""

import numpy as np
import pytest
import torch
from PIL import Image

import digit.pipeline
from digit.errors import DigitError
from digit.pipeline import DigitPipeline
from digit.prior import Prior, PriorConfig
from digit.rendering import to_uint8
from digit.vqgan import VQGAN
from digit.vqgan_config import VQGANConfig


def test_pictures_are_what_the_vqgan_decodes_and_follow_its_weights(monkeypatch):
    made = []

    def noted(vqgan):
        made.append(vqgan)
        return vqgan.decode

    monkeypatch.setattr(digit.pipeline, "decoding", noted)
    torch.manual_seed(0)
    shape = {"image_size": 8, "width": 8, "multipliers": (1, 2), "blocks": 1, "code_dim": 4}
    vqgan = VQGAN(VQGANConfig(codes=12, **shape))
    pipeline = DigitPipeline(Prior(PriorConfig(12, vqgan.length, width=8, layers=1, heads=2)), vqgan)
    first = pipeline(seeds=range(70), batch_size=66)  # more than are decoded at once
    codes = first.vq_codes.split([64, 2, 4])
    with torch.no_grad():
        assert torch.equal(first.pixels, torch.cat([to_uint8(vqgan.decode(part)) for part in codes]))
    assert first.pixels.is_contiguous(memory_format=torch.channels_last)  # as pictures need them
    shown = torch.stack([torch.from_numpy(np.array(image)) for image in first.images])
    assert torch.equal(shown.permute(0, 3, 1, 2), first.pixels) and first.images is first.images
    assert len(made) == 1
    with torch.no_grad():
        vqgan.decoder.conv_out.bias += 0.2
    brighter = pipeline(seeds=range(70))
    assert torch.equal(brighter.vq_codes, first.vq_codes)
    assert len(made) == 2 and (brighter.pixels.float() - first.pixels.float()).mean() > 30
    pipeline(seeds=[0], autocast=False)
    assert len(made) == 2  # exact on request, by the module on every device


def test_a_cache_of_8_bits_is_asked_of_the_sampler():
    shape = VQGANConfig(image_size=8, width=8, multipliers=(1, 2), blocks=1, codes=12, code_dim=4)
    vqgan = VQGAN(shape)
    pipeline = DigitPipeline(Prior(PriorConfig(12, vqgan.length, width=8, layers=1, heads=2)), vqgan)
    with pytest.raises(DigitError, match="needs a GPU"):
        pipeline(cache_bits=8)


@pytest.fixture(scope="module")
def classed(chain):
    """The tiny model, which knows three classes, and what it draws for the seeds 0 to 11."""
    pipeline = DigitPipeline.from_pretrained(chain.root / "model")
    return pipeline, pipeline(seeds=range(12))


def test_a_pipeline_says_what_it_is_in_one_line(classed):
    said = repr(classed[0])
    assert said.startswith("DigitPipeline(prior + ") and "3 classes, cpu)" in said and "\n" not in said


@pytest.mark.parametrize("seeds", [[3, 4, 5, 6], [11, 0, 7], [2], [8, 5, 2, 11, 0, 1]])
@pytest.mark.parametrize("renderer", ["autoregressive", "masked"])
def test_a_seed_is_its_class_and_its_picture_in_any_company(classed, seeds, renderer):
    pipeline, _ = classed
    whole = pipeline(seeds=range(12), renderer=renderer)
    for batch in (None, 1, 2):
        drawn = pipeline(seeds=seeds, batch_size=batch, renderer=renderer)
        assert drawn.labels == [seed % 3 for seed in seeds]
        assert torch.equal(drawn.codes, whole.codes[seeds])
        assert torch.equal(drawn.vq_codes, whole.vq_codes[seeds])
    named = pipeline([seed % 3 for seed in seeds], seeds=seeds, renderer=renderer)
    assert torch.equal(named.pixels, pipeline(seeds=seeds, renderer=renderer).pixels)


def test_a_prefix_leaves_a_seed_its_class(classed):
    pipeline, whole = classed
    for known in (0, 5):
        drawn = pipeline(seeds=[7, 2], prefix=whole.codes[[7, 2], :known])
        assert drawn.labels == [1, 2] and torch.equal(drawn.codes, whole.codes[[7, 2]])


def test_guidance_works_without_labels_and_not_without_classes(classed):
    pipeline, whole = classed
    guided = pipeline(seeds=range(12), guidance=3.0)
    assert guided.labels == whole.labels and guided.settings["prior"]["guidance"] == 3.0
    with pytest.raises(DigitError, match="guidance needs classes"):
        pipeline(seeds=[0], guidance=3.0, unconditional=True)
    with pytest.raises(DigitError, match="exclude each other"):
        pipeline("red", unconditional=True)
    free = pipeline(seeds=range(12), unconditional=True)
    assert free.labels is None and not torch.equal(free.codes, whole.codes)


def test_unconditional_changes_nothing_where_no_class_is_known():
    vqgan = VQGAN(VQGANConfig(image_size=8, width=8, multipliers=(1, 2), blocks=1, codes=12, code_dim=4))
    pipeline = DigitPipeline(Prior(PriorConfig(12, vqgan.length, width=8, layers=1, heads=2)), vqgan)
    drawn, again = pipeline(num_images=2), pipeline(num_images=2, unconditional=True)
    assert drawn.labels is None and again.labels is None and torch.equal(drawn.pixels, again.pixels)


def test_what_a_call_returns_goes_back_into_encode_and_decode(classed):
    pipeline, whole = classed
    assert torch.equal(pipeline.encode(whole.pixels), pipeline.encode(whole.pixels.float() / 255))
    assert torch.equal(pipeline.decode(whole.codes, seeds=whole.seeds), whole.pixels)
    assert pipeline.decode(pipeline.encode(whole.pixels)).shape == whole.pixels.shape
    again = pipeline.vqgan.decode(whole.vq_codes)  # with gradients, as in training
    again.sum().backward()
    assert torch.equal(to_uint8(again.detach()), whole.pixels)
    pipeline.vqgan.zero_grad()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda pixels: pixels.float(), "pixels go from 0 to 2.*: give uint8, or floats in"),
        (lambda pixels: pixels.float() / 127.5 - 1, "pixels go from -1 to"),
        (lambda pixels: pixels.float() / 0, "pixels go from nan"),
        (lambda pixels: pixels.long(), "pixels are int64"),
    ],
)
def test_other_pixels_are_refused_by_all_that_encodes(classed, change, sentence):
    pipeline, whole = classed
    pixels = whole.pixels.clone()
    pixels[0, 0, 0, 0], pixels[0, 0, 0, 1] = 0, 255
    for encode in (pipeline.encode, pipeline.tokenizer.encode, pipeline.vqgan.encode):
        with pytest.raises(DigitError, match=sentence):
            encode(change(pixels))


@pytest.mark.parametrize("renderer", ["autoregressive", "masked"])
def test_labels_and_guidance_reach_a_renderer_by_class(by_class, renderer):
    pipeline = DigitPipeline.from_pretrained(by_class.root / "model")
    part = pipeline.renderer_masked if renderer == "masked" else pipeline.renderer
    with torch.no_grad():  # three updates leave classes alike
        (part.separator_embedding if renderer == "masked" else part.start_embedding).weight.mul_(20)
    plain, guided = (
        pipeline(seeds=range(12), renderer=renderer, renderer_guidance=weight) for weight in (1.0, 4.0)
    )
    assert torch.equal(plain.codes, guided.codes) and not torch.equal(plain.vq_codes, guided.vq_codes)
    assert guided.settings[renderer]["guidance"] == 4.0
    again = pipeline(seeds=[7, 2], renderer=renderer, renderer_guidance=4.0, batch_size=1)
    assert again.labels == [1, 2] and torch.equal(again.vq_codes, guided.vq_codes[[7, 2]])
    other = pipeline([2, 2], seeds=[7, 1], renderer=renderer, prefix=plain.codes[[7, 1]])
    assert not torch.equal(other.vq_codes, plain.vq_codes[[7, 1]])
    free = pipeline(seeds=range(12), renderer=renderer, prefix=plain.codes, unconditional=True)
    assert free.labels is None and not torch.equal(free.vq_codes, plain.vq_codes)
    with pytest.raises(DigitError, match="guidance needs classes"):
        pipeline(seeds=[0], renderer=renderer, renderer_guidance=2.0, unconditional=True)


def test_guidance_is_refused_by_a_renderer_that_knows_no_class(classed):
    for renderer in ("autoregressive", "masked"):
        with pytest.raises(DigitError, match=r"guidance 2.0 needs a renderer of classes"):
            classed[0](seeds=[0], renderer=renderer, renderer_guidance=2.0)


def test_complete_draws_what_sample_prefix_from_draws(classed, chain, tmp_path, run):
    pipeline, whole = classed
    for i, image in enumerate(whole.images[:2]):
        image.save(tmp_path / f"{i}.png")
    out = tmp_path / "out"
    code, _, said = run("sample", chain.root / "model", "--prefix-from", tmp_path, "--prefix", 5, "--num", 3,
                        "--out", out, "--device", "cpu")  # fmt: skip
    assert code == 0, said
    files = sorted(out.glob("0*-0*.png"))
    drawn = pipeline.complete([tmp_path / "0.png", tmp_path / "1.png"], prefix=5, seeds=range(3))
    assert len(files) == 6
    for file, image in zip(files, drawn.images, strict=True):
        assert np.array_equal(np.asarray(Image.open(file)), np.asarray(image))
    kept = pipeline.encode(whole.pixels[:2])[:, :5]
    assert torch.equal(drawn.codes[:, :5], kept.repeat_interleave(3, 0)) and drawn.seeds == [0, 1, 2] * 2
    labelled = pipeline.complete(whole.images[:2], prefix=5, seeds=[4], labels=["red", 0])
    assert labelled.labels == [2, 0]
    assert pipeline.complete(whole.pixels[:1], prefix=16).codes.unique(dim=0).shape[0] == 1
    with pytest.raises(DigitError, match="prefix: pictures of this model have 16 codes, not 17"):
        pipeline.complete(whole.pixels, prefix=17)
