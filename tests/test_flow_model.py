"""A model whose renderer flows: composed without a VQGAN, drawn with from Python."""

import json

import pytest
import torch

import digit
from digit.data.codes import Codes
from digit.errors import DigitError, LineageError
from digit.files import read_json
from digit.pipeline import DigitPipeline
from digit.renderer_flow import FlowRenderer
from digit.weights.artifact import load, save


@pytest.fixture(scope="module")
def pipeline(flow) -> DigitPipeline:
    return DigitPipeline.from_pretrained(flow.model)


def test_it_is_opened_and_says_what_it_is(pipeline, flow):
    assert repr(pipeline) == "DigitPipeline(prior + renderer_flow + tokenizer, 16 px, 3 classes, cpu)"
    assert (pipeline.renderers, pipeline.image_size, pipeline.vqgan) == (["flow"], 16, None)
    assert DigitPipeline.from_pretrained(flow.all).renderers == ["flow", "autoregressive", "masked"]
    own = pipeline.renderer_flow.config
    assert (pipeline.sampling.flow_steps, pipeline.sampling.flow_guidance) == (own.steps, own.guidance)


@pytest.mark.parametrize(
    ("parts", "opened"),
    [
        (["renderer_flow"], {"prior", "renderer_flow"}),
        (["renderer"], {"prior", "renderer", "vqgan"}),
        (["renderer_flow", "renderer_masked"], {"prior", "renderer_flow", "renderer_masked", "vqgan"}),
        ([], {"prior", "vqgan"}),
    ],
)
def test_the_vqgan_is_opened_where_it_is_needed(flow, parts, opened):
    from digit.weights.model_folder import open_model

    assert set(open_model(flow.all, parts=parts).parts) == opened


def test_pictures_are_those_of_the_stages_one_after_another(pipeline):
    drawn = pipeline(["red", "green"], seeds=[3, 4], steps=2, renderer_guidance=1.2, batch_size=1)
    labels = torch.tensor([2, 1])
    assert drawn.vq_codes is None and drawn.labels == labels.tolist()
    assert torch.equal(drawn.codes, pipeline.prior.sample([3, 4], labels, pipeline.sampling.prior))
    pixels = pipeline.renderer_flow.sample(drawn.codes, [3, 4], labels, steps=2, guidance=1.2)
    assert (drawn.pixels.float() / 255 - pixels).abs().max() < 0.51 / 255
    assert drawn.settings["renderer"] == "flow"
    assert drawn.settings["flow"] == {"steps": 2, "guidance": pytest.approx(1.2)}


def test_without_labels_the_renderer_is_told_none_and_guided_by_codes(pipeline):
    free = pipeline(seeds=[5, 6], unconditional=True, steps=2, renderer_guidance=3.0)
    pixels = pipeline.renderer_flow.sample(free.codes, [5, 6], steps=2, guidance=3.0)
    assert (free.pixels.float() / 255 - pixels).abs().max() < 0.51 / 255
    plain = pipeline(seeds=[5, 6], unconditional=True, steps=2, renderer_guidance=1.0)
    assert not torch.equal(plain.pixels, free.pixels)


def test_a_seed_is_its_picture_whatever_the_batch(pipeline):
    whole = pipeline(seeds=range(5), steps=2)
    again = pipeline(seeds=[4, 2], steps=2, batch_size=1)
    assert torch.equal(again.pixels, whole.pixels[[4, 2]])


@pytest.mark.parametrize(("count", "batch"), [(1, None), (5, 2)])
def test_progress_adds_up_to_the_work(flow, count, batch):
    for folder in (flow.model, flow.all):
        pipeline = DigitPipeline.from_pretrained(folder)
        heard = []
        pipeline(seeds=range(count), steps=3, batch_size=batch, progress=heard.append)
        assert sum(heard) == pipeline.work(count) and min(heard) >= 0 and len(heard) > 3


def test_codes_of_pictures_are_drawn_again(pipeline, chain):
    codes = torch.from_numpy(Codes(chain.root / "codes").array("codes")[:2, 0].astype("int64"))
    pixels = pipeline.decode(codes, steps=2, unconditional=True)
    assert pixels.shape == (2, 3, 16, 16) and pipeline.encode(pixels).shape == codes.shape


def test_other_renderers_of_a_model_draw_as_before(flow, chain):
    everything, before = (DigitPipeline.from_pretrained(path) for path in (flow.all, chain.root / "model"))
    for name in ("autoregressive", "masked"):
        here, there = (model(seeds=[0, 1], renderer=name) for model in (everything, before))
        assert torch.equal(here.pixels, there.pixels) and torch.equal(here.vq_codes, there.vq_codes)
        assert here.settings == there.settings
    assert everything(seeds=[0], steps=1).settings["renderer"] == "flow"


@pytest.mark.parametrize("stored_as", ["int8", "float16"])
def test_saved_in_less_room_it_draws_nearly_the_same(pipeline, tmp_path, stored_as):
    pipeline.save_pretrained(tmp_path / "model", stored_as=stored_as)
    again = DigitPipeline.from_pretrained(tmp_path / "model")
    codes = torch.zeros(1, 16, dtype=torch.int64)
    here, there = (each.decode(codes, steps=2).float() for each in (pipeline, again))
    assert (here - there).abs().mean() < 2
    files = [folder / "renderer_flow/model.safetensors" for folder in (tmp_path / "model",)]
    assert files[0].stat().st_size < 4 * sum(p.numel() for p in pipeline.renderer_flow.parameters())


def test_info_tells_the_parts_and_how_it_draws(flow, run):
    code, out, _ = run("info", flow.model)
    assert code == 0 and "renderer_flow" in out and "vqgan" not in out
    assert "flow" in out.partition("besides")[2]


def stages(chain, flow):
    names = {"prior": "prior", "vqgan": "vqgan", "renderer": "renderer", "prior_vq": "prior_vq"}
    return {name: chain.root / place for name, place in names.items()} | {"flow": flow.root / "renderer"}


def changed(folder, tmp_path, **config) -> object:
    """The renderer in `folder` with other settings, saved below `tmp_path`."""
    from dataclasses import replace

    there = load(folder)
    made = FlowRenderer(replace(there.config, **config))
    return save(
        made, tmp_path / "other", lineage=there.artifact["lineage"], classes=there.artifact["classes"]
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--prior {prior}", "add a vqgan or renderer_flow"),
        ("--prior {prior} --renderer {renderer}", "add a vqgan, which decodes"),
        ("--prior {prior} --renderer {renderer} --renderer-flow {flow}", "add a vqgan, which decodes"),
        (
            "--prior {prior_vq} --renderer-flow {flow}",
            "the prior draws 16 VQ codes of 16, the flow renderer reads",
        ),
        ("--prior {prior} --renderer-flow {renderer}", "is a renderer, where a renderer_flow is needed"),
    ],
)
def test_what_does_not_belong_together_is_one_sentence(chain, flow, run, tmp_path, options, said):
    line = options.format(**stages(chain, flow)).split()
    code, _, err = run("compose", *line, "--out", tmp_path / "model")
    told = [line for line in err.splitlines() if said in line]
    assert code == 2 and len(told) == 1, err
    assert not (tmp_path / "model").exists()


def test_pictures_of_unequal_sizes_are_refused(chain, flow, tmp_path):
    changed(flow.root / "renderer", tmp_path, image_size=32)
    parts = {"vqgan": chain.root / "vqgan", "renderer_flow": tmp_path / "other"}
    with pytest.raises(DigitError, match="draws pictures of 32 px, the VQGAN of 16 px"):
        digit.compose(chain.root / "prior", tmp_path / "model", **parts)


def test_a_renderer_of_other_codes_is_refused_even_without_a_tokenizer(chain, flow, tmp_path):
    renderer = load(flow.root / "renderer")
    save(renderer, tmp_path / "other", lineage={"tokenizer": "f" * 64}, classes=renderer.artifact["classes"])
    with pytest.raises(LineageError, match="belongs to the tokenizer"):
        digit.compose(chain.root / "prior", tmp_path / "model", renderer_flow=tmp_path / "other")
    changed(flow.root / "renderer", tmp_path, codes=9)
    with pytest.raises(
        LineageError, match="the prior draws 16 codes of 8, the flow renderer reads 16 codes of 9"
    ):
        digit.compose(chain.root / "prior", tmp_path / "model", renderer_flow=tmp_path / "other")


def test_how_it_draws_is_kept_in_the_model(chain, flow, tmp_path):
    (tmp_path / "sampling.json").write_text(json.dumps({"flow_steps": 3, "flow_guidance": 1.0}))
    how = {"renderer_flow": flow.root / "renderer", "sampling": tmp_path / "sampling.json"}
    digit.compose(chain.root / "prior", tmp_path / "model", **how)
    sampling = read_json(tmp_path / "model/config.json")["sampling"]
    assert (sampling["flow_steps"], sampling["flow_guidance"]) == (3, 1.0)
    drawn = DigitPipeline.from_pretrained(tmp_path / "model")(seeds=[0])
    assert drawn.settings["flow"] == {"steps": 3, "guidance": 1.0}
