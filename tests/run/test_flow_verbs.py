"""A model whose renderer flows, in every verb that draws or measures."""

import json

import numpy as np
import pytest
from PIL import Image

from digit.files import read_json
from digit.pipeline import DigitPipeline

TINY = ("--device", "cpu")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    from digit.nn.classifier import Classifier, ClassifierConfig
    from digit.weights.artifact import save

    path = tmp_path_factory.mktemp("network") / "network"
    save(
        Classifier(ClassifierConfig(classes=3, width=4, image_size=16)),
        path,
        classes=["blue", "green", "red"],
    )
    return ("--features", f"classifier:{path}", "--few")


def test_sample_draws_what_the_pipeline_draws(flow, run, tmp_path):
    how = ("--labels", "red", "blue", "--num", 3, "--passes", 2, "--renderer-guidance", 1.3, "--codes")
    code, out, err = run("sample", flow.model, *how, "--out", tmp_path / "s", *TINY, "--json")
    assert code == 0, err
    told = json.loads(out)["settings"]
    assert told["renderer"] == "flow" and told["flow"] == {"steps": 2, "guidance": 1.3}
    rows = read_json(tmp_path / "s/samples.json")["samples"]
    assert "codes" in rows[0] and "vq_codes" not in rows[0]
    pipeline = DigitPipeline.from_pretrained(flow.model)
    drawn = pipeline(["red", "blue"], seeds=[0, 1, 2], steps=2, renderer_guidance=1.3)
    for row, pixels in zip(rows, drawn.pixels, strict=True):
        assert (np.asarray(Image.open(tmp_path / "s" / row["file"])) == pixels.permute(1, 2, 0).numpy()).all()
    assert rows[0]["codes"] == drawn.codes[0].tolist()


def test_sample_says_what_a_flow_renderer_does_not_use(flow, run, tmp_path):
    how = ("--renderer-top-k", 3, "--renderer-temperature", 0.5, "--noise", 1, "--num", 1, "--passes", 1)
    code, _, err = run("sample", flow.all, *how, "--out", tmp_path / "s", *TINY)
    assert code == 0
    assert "--renderer-top-k is not used: of the autoregressive renderer, and the flow one draws" in err
    assert "--renderer-temperature is not used: of the autoregressive or masked renderer" in err
    assert "--noise is not used: of the masked renderer" in err and "--passes" not in err
    code, _, err = run("sample", flow.model, "--renderer", "masked", "--out", tmp_path / "t", *TINY)
    assert code == 2 and "this model has no masked renderer: choose from flow" in err


def test_a_masked_renderer_still_draws_by_its_name(flow, run, tmp_path):
    code, out, err = run(
        "sample", flow.all, "--renderer", "masked", "--num", 1, "--out", tmp_path / "s", *TINY, "--json"
    )
    assert code == 0 and json.loads(out)["settings"]["renderer"] == "masked", err


def test_pictures_are_completed(flow, chain, run, tmp_path):
    how = ("--prefix-from", chain.images, "--prefix", 4, "--num", 1, "--passes", 1, "--batch", 16)
    code, out, err = run("sample", flow.model, *how, "--out", tmp_path / "s", *TINY, "--json")
    assert code == 0 and json.loads(out)["strips"] == 48, err


def test_reconstruction_has_its_row(flow, chain, run, network, tmp_path):
    call = ("evaluate", "reconstruction", flow.model, "--images", chain.images, *network, *TINY, "--json")
    code, out, err = run(*call, "--out", tmp_path / "r")
    assert code == 0, err
    value = json.loads(out)
    assert value["values"]["DiGIT + flow: PSNR"] > 0 and not any(
        "VQ only" in name for name in value["values"]
    )
    assert value["settings"]["renderer"] == {"name": "flow", "steps": 8, "guidance": 1.5, "classes": True}
    assert "flow renderer" in value["protocol"] and value["settings"]["size"] == 16
    assert (tmp_path / "r/reconstruction.png").is_file()
    both = json.loads(run(*(flow.all if part == flow.model else part for part in call))[1])["values"]
    assert {name.partition(":")[0] for name in both} == {"real pictures", "DiGIT + flow", "VQ only"}
    assert both["DiGIT + flow: PSNR"] == pytest.approx(value["values"]["DiGIT + flow: PSNR"], rel=1e-6)


def test_reconstruction_needs_a_tokenizer(flow, chain, run, network, tmp_path):
    blind = ("--prior", chain.root / "prior", "--renderer-flow", flow.root / "renderer")
    assert run("compose", *blind, "--out", tmp_path / "blind")[0] == 0
    code, _, err = run(
        "evaluate", "reconstruction", tmp_path / "blind", "--images", chain.images, *network, *TINY
    )
    assert code == 2 and "blind holds no tokenizer to encode with" in err


def test_prefixes_are_measured(flow, chain, run, network):
    models = (flow.model, chain.root / "model")
    call = (
        "evaluate",
        "prefix",
        *models,
        "--images",
        chain.images,
        "--prefix",
        16,
        *network,
        *TINY,
        "--json",
    )
    code, out, err = run(*call)
    assert code == 0, err
    drawn = json.loads(out)["settings"]["drawn"]
    assert sorted(how["renderer"] for how in drawn.values()) == ["autoregressive", "flow"]


def test_guidance_of_prior_and_renderer_are_swept_together(flow, chain, run, network, tmp_path):
    axes = ("--guidance", 1, 2, "--renderer-guidance", 1, 1.5, "--passes", 1, 2, "--num", 6)
    call = ("evaluate", "sweep", flow.model, "--reference", chain.images, *axes, *network, *TINY, "--json")
    code, out, err = run(*call, "--out", tmp_path / "w")
    assert code == 0, err
    value = json.loads(out)
    found = {
        (row["setting"]["guidance"], row["setting"]["renderer_guidance"], row["setting"]["steps"])
        for row in value["rows"]
    }
    assert found == {(g, r, s) for g in (1, 2) for r in (1, 1.5) for s in (1, 2)}
    best = value["best"]["setting"]
    assert "--renderer flow" in value["best"]["command"] and "--renderer-guidance" in value["best"]["command"]
    kept = read_json(tmp_path / "w/sweep-sampling.json")
    assert (kept["flow_steps"], kept["flow_guidance"]) == (best["steps"], best["renderer_guidance"])
    compose = ("compose", "--prior", chain.root / "prior", "--renderer-flow", flow.root / "renderer")
    assert run(*compose, "--sampling", tmp_path / "w/sweep-sampling.json", "--out", tmp_path / "m")[0] == 0
    settings = DigitPipeline.from_pretrained(tmp_path / "m")(seeds=[0]).settings
    assert settings["flow"] == {"steps": best["steps"], "guidance": best["renderer_guidance"]}
    code, _, err = run(*call[:5], "--noise", 1, *network, *TINY)
    assert code == 2 and "--noise is no setting of the flow renderer" in err


def test_without_classes_it_is_still_guided_by_codes(flow, chain, run, network):
    axes = ("--unconditional", "--renderer-guidance", 1, 2, "--passes", 2, "--num", 4)
    code, out, err = run(
        "evaluate", "sweep", flow.model, "--reference", chain.images, *axes, *network, *TINY, "--json"
    )
    assert code == 0, err
    distances = [row["values"] for row in json.loads(out)["rows"]]
    assert distances[0] != distances[1]


def test_pictures_of_it_are_evaluated(flow, chain, run, network, tmp_path):
    assert run("sample", flow.model, "--num", 4, "--passes", 1, "--out", tmp_path / "s", *TINY)[0] == 0
    call = ("evaluate", "images", "--samples", tmp_path / "s", "--reference", chain.images, *network, *TINY)
    assert run(*call)[0] == 0
