"""digit.weights.model_folder: a folder comes back as it was saved, and only where its parts fit."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from digit.errors import DigitError, LineageError
from digit.nn.sampling import DRAW, SamplerConfig
from digit.prior import Prior, PriorConfig
from digit.vqgan import VQGAN
from digit.vqgan_config import VQGANConfig
from digit.weights.artifact import load, save
from digit.weights.model_folder import (
    PipelineSampling,
    check_parts,
    finish,
    lacking,
    locate,
    open_model,
    read_config,
    save_model,
)

SAMPLING = PipelineSampling(prior=SamplerConfig(top_k=3), masked_steps=4)


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, torch.nn.Module]:
    """A VQGAN and a prior over its codes, loaded from artifacts."""
    torch.manual_seed(0)
    vqgan = VQGAN(VQGANConfig(image_size=8, width=8, multipliers=(1, 2), blocks=1, codes=12, code_dim=4))
    id = save(vqgan, tmp_path / "v")
    prior = Prior(PriorConfig(12, vqgan.length, width=8, layers=1, heads=2))
    save(prior, tmp_path / "p", lineage={"vqgan": id})
    return {"prior": load(tmp_path / "p"), "vqgan": load(tmp_path / "v")}


@pytest.fixture
def folder(parts, tmp_path: Path) -> Path:
    save_model(tmp_path / "model", parts, classes=["a", "b"], sampling=SAMPLING)
    return tmp_path / "model"


@pytest.mark.parametrize("stored_as", ["float32", "int8"])
def test_a_model_comes_back_with_the_ids_of_its_parts(parts, tmp_path, stored_as):
    save_model(tmp_path / "m", parts, classes=["a", "b"], sampling=SAMPLING, stored_as=stored_as)
    model = open_model(tmp_path / "m")
    assert (model.classes, model.sampling) == (["a", "b"], SAMPLING)
    ids = {name: part.artifact["id"] for name, part in parts.items()}
    assert {name: part.artifact["id"] for name, part in model.parts.items()} == ids
    assert read_config(tmp_path / "m")["parts"] == ids
    for name, part in parts.items():
        there = model.parts[name].state_dict()
        assert all(torch.allclose(value, there[key], atol=0.02) for key, value in part.state_dict().items())
    save_model(tmp_path / "again", model.parts, classes=model.classes, sampling=model.sampling)
    assert (tmp_path / "again" / "config.json").read_bytes() == (tmp_path / "m" / "config.json").read_bytes()


def test_a_model_that_does_not_say_its_draw_opens_and_still_does_not(folder, tmp_path):
    assert read_config(folder)["sampling"]["draw"] == DRAW
    config = json.loads((folder / "config.json").read_text())
    del config["checksum"], config["sampling"]["draw"]
    (folder / "config.json").write_text(json.dumps(config))
    model = open_model(folder)
    assert model.sampling == replace(SAMPLING, draw=None)
    save_model(tmp_path / "again", model.parts, classes=model.classes, sampling=model.sampling)
    assert read_config(tmp_path / "again")["sampling"]["draw"] is None


def test_a_part_of_another_model_is_refused(parts, folder, tmp_path):
    with torch.no_grad():
        parts["vqgan"].decoder.conv_out.bias += 1
    other = save(parts["vqgan"], tmp_path / "other")
    shutil.rmtree(folder / "vqgan")
    shutil.copytree(tmp_path / "other", folder / "vqgan")
    with pytest.raises(LineageError, match="is not the vqgan this pipeline was saved with"):
        open_model(folder)
    with pytest.raises(LineageError, match=f"the prior belongs to the vqgan .* beside it to {other[:12]}"):
        finish(folder, ["prior", "vqgan"], classes=[], sampling=SAMPLING)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["prior"], "needs vqgan or renderer_flow"),
        (["vqgan"], "needs prior"),
        (["prior", "renderer"], "needs vqgan, which decodes what"),
        (["prior", "renderer_masked", "renderer_flow"], "needs vqgan, which decodes what"),
        (["prior", "vqgan", "upscaler"], "no parts upscaler"),
    ],
)
def test_a_model_needs_a_prior_and_what_makes_pixels(folder, names, said):
    with pytest.raises(DigitError, match=said):
        finish(folder, names, classes=[], sampling=SAMPLING)


def test_a_flow_renderer_needs_no_vqgan():
    assert lacking(["prior", "renderer_flow"]) is None
    assert lacking(["prior", "vqgan"]) is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"kind": "prior"}, "is a prior, not a pipeline"),
        ({"sampling": 1}, "(sampling|parts|classes) (does not fit|is not there)"),
        ({"classes": [1]}, "(sampling|parts|classes) (does not fit|is not there)"),
        ({"parts": {"prior": "a", "vqgan": "b", "upscaler": "c"}}, "newer digit .upscaler"),
        ({"format": 2}, "newer digit"),
        ({"parts": {"prior": "a"}}, "names no vqgan or renderer_flow"),
        ({"sampling": {"masked_step": 3}}, "did you mean masked_steps"),
    ],
)
def test_a_config_that_is_none_is_refused_in_a_sentence(folder, change, problem):
    path = folder / "config.json"
    value = {name: each for name, each in json.loads(path.read_text()).items() if name != "checksum"}
    path.write_text(json.dumps(value | change))
    with pytest.raises(DigitError, match=problem):
        open_model(folder)


def test_a_model_is_a_folder_or_one_that_comes_with_the_package(folder, tmp_path):
    assert locate(folder) == folder
    assert locate(None) == locate("cifar10")
    with pytest.raises(DigitError, match=r"no model cifar9: .*cifar10"):
        locate("cifar9")
    with pytest.raises(DigitError, match="it is no pipeline"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("name", "asked"), [("a/b", ("a/b", None)), ("a/b@v1", ("a/b", "v1")), ("a/b@0c1d", ("a/b", "0c1d"))]
)
def test_a_revision_is_fetched_its_own_files_alone(folder, monkeypatch, name, asked):
    """The first file says which commit it is, and the others are of that."""
    fetched = []

    def fetch(repository, path, *, revision, newest=False):
        fetched.append(path)
        assert (repository, revision) == (asked if path == "config.json" else (asked[0], folder.name))
        assert newest == (path == "config.json")
        return folder / path, None

    monkeypatch.setattr("digit.weights.hub.fetch", fetch)
    assert locate(name) == folder
    files = ("config.json", "model.safetensors")
    parts = {f"{part}/{file}" for part in read_config(folder)["parts"] for file in files}
    assert set(fetched) == {"config.json"} | parts


@pytest.mark.parametrize("name", ["a/b@..", "a/b@."])
def test_a_revision_leads_nowhere_else(name):
    with pytest.raises(DigitError, match="no revision"):
        locate(name)


def _part(classes: list[str], **config: Any) -> dict[str, Any]:
    return {"id": "x", "lineage": {}, "config": {"classes": len(classes), **config}, "classes": classes}


@pytest.mark.parametrize(
    ("prior", "renderer", "words"),
    [
        (["a", "b"], _part(["a", "c"]), "class 1 is 'c' to the renderer and 'b' to the prior"),
        (["a", "b"], _part(["b", "a"]), "class 0 is 'b'"),
        (["a", "b"], _part(["a"]), "knows 1 classes, the prior 2"),
        ([], _part(["a"], label_dropout=0.0), "with a class for every picture, and the prior knows none"),
    ],
)
def test_a_renderer_by_class_has_the_classes_of_its_prior(prior, renderer, words):
    with pytest.raises(LineageError, match=words):
        check_parts({"prior": _part(prior), "renderer": renderer})


def test_renderers_without_classes_or_need_of_them_go_with_any_prior():
    plain = {**_part(["a", "c"]), "config": {"classes": 0}}  # the names are those of its codes
    check_parts({"prior": _part(["a", "b"]), "renderer": plain})
    check_parts({"prior": _part([]), "renderer": _part(["a"], label_dropout=0.1)})
    check_parts({"prior": _part(["a", "b"]), "renderer": _part(["a", "b"], label_dropout=0.0)})
