"""A tiny model in the layout of the published ones, from a hub on the loopback to a picture."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_hub import fake_hub

from digit import DigitPipeline
from digit.errors import DigitError, LineageError
from digit.files import sha256_file
from digit.nn.sampling import SamplerConfig
from digit.weights.artifact import describe, identity, load, save
from digit.weights.conversion import tokenizer_copy
from digit.weights.fairseq import convert_checkpoint
from digit.weights.foreign import read
from digit.weights.official import OfficialFile, OfficialModel, Published
from digit.weights.official_model import convert_model, imagenet_ids, imagenet_names

FIXTURES = Path(__file__).parents[1] / "fixtures"
PLACES = {
    "prior": "outputs/tiny_stage1_cls/checkpoints/checkpoint_last.pt",
    "renderer": "outputs/tiny_stage2/checkpoints/checkpoint_last.pt",
    "centroids": "dataset/km.npy",
    "vqgan": "vqgan.ckpt",
}


def unrounded(tensor):
    """Values that float16 rounds to `tensor`, as an original's are to those of its copy."""
    return tensor.clone() * (1 + 1e-5)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The four files under their places, and DINOv2's own."""
    folder = tmp_path_factory.mktemp("published")
    renderer = torch.load(FIXTURES / "stage2_ar.pt", weights_only=True)["model"]
    for place in PLACES.values():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
    for name, file in (("prior", "stage1_cls.pt"), ("renderer", "stage2_ar.pt"), ("centroids", "km.npy")):
        (folder / PLACES[name]).write_bytes((FIXTURES / file).read_bytes())
    parts = {prefix: {} for prefix in ("vqgan", "pretrained_encoder")}
    for key, value in renderer.items():
        prefix, _, rest = key.partition(".")
        if prefix in parts:
            parts[prefix][rest] = unrounded(value)
    torch.save({"state_dict": parts["vqgan"]}, folder / PLACES["vqgan"])
    torch.save(parts["pretrained_encoder"], folder / "dinov2.pth")
    return folder


@pytest.fixture(scope="module")
def model(published):
    def file(name):
        path = published / PLACES[name]
        return OfficialFile("owner/name", PLACES[name], path.stat().st_size, sha256_file(path))

    named = {name: file(name) for name in PLACES}
    row = OfficialModel(**named, top_k=30, published=Published(4.79, 142.87, "table 4"), encoder_heads=3)
    # One file whose sha256 only the hub knows.
    return dataclasses.replace(row, renderer=dataclasses.replace(row.renderer, bytes=None, sha256=None))


@pytest.fixture(scope="module")
def converted(published, model, tmp_path_factory):
    """(folder, result) of the whole way, with one interruption."""
    root = tmp_path_factory.mktemp("converted")
    with fake_hub() as hub:
        hub.files = {f"owner/name/{place}": (published / place).read_bytes() for place in PLACES.values()}
        hub.faults = ["close"]
        result = convert_model(
            model, root / "model", name="tiny", cache=root / "cache", endpoint=hub.endpoint
        )
        assert len(hub.ranges) == 5
    assert sorted(path.name for path in root.iterdir()) == ["cache", "model"]  # nothing unfinished
    return root / "model", result


def test_a_label_gives_a_picture(converted):
    pipeline = DigitPipeline.from_pretrained(converted[0])
    drawn = pipeline("golden retriever", seeds=[3])
    assert drawn.labels == [207] and drawn.pixels.shape == (1, 3, 256, 256)
    assert drawn.codes.shape == drawn.vq_codes.shape == (1, 256)
    assert drawn.codes.max() < 48 and drawn.vq_codes.max() < 64 and drawn.pixels.float().std() > 0
    with pytest.raises(DigitError, match="golden retriever") as error:
        pipeline("golden retreiver", seeds=[3])
    assert len(str(error.value)) < 200  # not a thousand names


def test_result(converted, model, published):
    folder, result = converted
    against = {place: row["checked_against"] for place, row in result["files"].items()}
    assert against == {place: "hub" if name == "renderer" else "pinned" for name, place in PLACES.items()}
    for name, place in PLACES.items():
        assert result["files"][place]["sha256"] == sha256_file(published / PLACES[name])
    assert result["published"] == {"FID": 4.79, "IS": 142.87, "where": "table 4"}
    assert result["sample"] == f"digit sample {folder} --labels 'golden retriever'"
    assert set(result["parts"]) == {"prior", "renderer", "vqgan", "tokenizer"}
    json.dumps({**result, "model": str(result["model"])})


def test_parts_are_exact(converted, published):
    """What is stored as float16 loses nothing; centroids are those of their own file, not of the copy."""
    folder, result = converted
    for name in ("prior", "renderer"):
        content = read(published / PLACES[name])
        expected: torch.nn.Module = convert_checkpoint(content, where=name)
        loaded = load(folder / name)
        assert describe(folder / name)["stored_as"] == "float16"
        assert describe(folder / name)["id"] == identity(expected) == identity(loaded)
    tokenizer = load(folder / "tokenizer")
    table = torch.from_numpy(np.load(FIXTURES / "km.npy"))
    assert torch.equal(tokenizer.centroids, table) and not torch.equal(table, table.half().float())
    vqgan = torch.load(published / PLACES["vqgan"], weights_only=True)["state_dict"]
    assert describe(folder / "vqgan")["stored_as"] == "float32"
    state = load(folder / "vqgan").state_dict()
    assert all(torch.equal(state[key], value) for key, value in vqgan.items())
    assert result["parameters"] == sum(
        weight.numel() for part in result["parts"] for weight in load(folder / part).parameters()
    )


def test_lineage_and_settings(converted, model):
    folder, _ = converted
    about = {name: describe(folder / name) for name in ("prior", "renderer", "vqgan", "tokenizer")}
    ids = {name: row["id"] for name, row in about.items()}
    assert about["prior"]["lineage"] == {"tokenizer": ids["tokenizer"]}
    assert about["renderer"]["lineage"] == {"tokenizer": ids["tokenizer"], "vqgan": ids["vqgan"]}
    assert about["tokenizer"]["extra"]["size"] == 256  # pictures that `digit tokenize` gives it
    assert about["prior"]["classes"][207] == "n02099601"
    for name, row in about.items():
        file = getattr(model, {"tokenizer": "centroids"}.get(name, name))
        assert (row["extra"]["converted_from"]["repo"], row["extra"]["converted_from"]["file"]) == (
            file.repo,
            file.path,
        )
    pipeline = DigitPipeline.from_pretrained(folder)
    assert pipeline.classes[207] == "golden retriever" and len(pipeline.classes) == 1000
    assert pipeline.sampling.prior == SamplerConfig(top_k=30)
    assert pipeline.sampling.renderer == SamplerConfig(top_p=0.8, top_p_of="vocabulary")
    assert pipeline.sampling.masked_steps == 8


def test_copies_in_the_checkpoints(published, model, tmp_path):
    """Only the checkpoints are needed, and everything is as the reference has it after loading them."""
    for name in ("prior", "renderer"):
        path = tmp_path / "files" / PLACES[name]
        path.parent.mkdir(parents=True)
        path.write_bytes((published / PLACES[name]).read_bytes())
    result = convert_model(model, tmp_path / "out", name="tiny", copies=True, files=tmp_path / "files")
    assert set(result["files"]) == {PLACES["prior"], PLACES["renderer"]}
    assert result["files"][PLACES["renderer"]]["checked_against"] == "nothing"
    copy = tokenizer_copy(read(published / PLACES["renderer"]), where="renderer", encoder_heads=3)
    assert describe(tmp_path / "out" / "tokenizer")["id"] == identity(copy)
    DigitPipeline.from_pretrained(tmp_path / "out")


def test_an_encoder_of_its_own(published, model, converted, tmp_path):
    options = {"name": "tiny", "files": published}
    result = convert_model(model, tmp_path / "own", encoder=published / "dinov2.pth", **options)
    assert result["parts"]["tokenizer"]["id"] != converted[1]["parts"]["tokenizer"]["id"]
    own: torch.nn.Module = load(tmp_path / "own" / "tokenizer")
    weight = own.encoder.vit.blocks[0].attn.qkv.weight
    assert not torch.equal(weight, weight.half().float())
    # The same as an artifact.
    save(own.encoder, tmp_path / "encoder")
    again = convert_model(model, tmp_path / "again", encoder=tmp_path / "encoder", **options)
    assert again["parts"]["tokenizer"]["id"] == result["parts"]["tokenizer"]["id"]

    stranger = torch.load(published / "dinov2.pth", weights_only=True)
    stranger["blocks.3.mlp.fc1.weight"] = stranger["blocks.3.mlp.fc1.weight"] * 1.01
    torch.save(stranger, tmp_path / "other.pth")
    with pytest.raises(LineageError, match=r"blocks\.3\.mlp\.fc1\.weight"):
        convert_model(model, tmp_path / "out", encoder=tmp_path / "other.pth", **options)
    assert not (tmp_path / "out").exists()


def with_file(published, model, name, change, folder):
    """The row and the files with one file changed, its sha256 with it."""
    for place in PLACES.values():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes((published / place).read_bytes())
    change(folder / PLACES[name])
    file = OfficialFile("owner/name", PLACES[name], sha256=sha256_file(folder / PLACES[name]))
    return dataclasses.replace(model, **{name: file})


def scale_centroids(path):
    np.save(path, np.load(path) * np.float32(1.01))


def cut_centroids(path):
    np.save(path, np.load(path)[:40])


def scale_vqgan(path):
    state = torch.load(path, weights_only=True)["state_dict"]
    state["decoder.conv_in.bias"] = state["decoder.conv_in.bias"] + 0.01
    torch.save({"state_dict": state}, path)


def another_prior(path):
    path.write_bytes((FIXTURES / "vq_only.pt").read_bytes())


def a_prior_for_a_renderer(path):
    path.write_bytes((FIXTURES / "stage1_uncond.pt").read_bytes())


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("centroids", scale_centroids, "centroids is another one"),
        ("centroids", cut_centroids, r"holds \[40, 24\] centroids"),
        ("vqgan", scale_vqgan, "conv_in.bias is another one"),
        ("prior", another_prior, "no tokenizer"),
        ("renderer", a_prior_for_a_renderer, "no VQGAN"),
    ],
)
def test_files_that_do_not_belong_together(published, model, tmp_path, name, change, problem):
    row = with_file(published, model, name, change, tmp_path / "files")
    with pytest.raises(DigitError, match=problem) as error:
        convert_model(row, tmp_path / "out", name="tiny", files=tmp_path / "files")
    assert "\n" not in str(error.value)
    assert isinstance(error.value, LineageError) == ("another one" in problem)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["files"]


def test_a_wrong_file_leaves_nothing(published, model, tmp_path):
    with fake_hub() as hub:
        hub.files = {f"owner/name/{place}": (published / place).read_bytes() for place in PLACES.values()}
        hub.files[f"owner/name/{PLACES['prior']}"] = b"x" * (model.prior.bytes or 0)
        with pytest.raises(DigitError, match="sha256"):
            convert_model(model, tmp_path / "out", name="tiny", cache=tmp_path, endpoint=hub.endpoint)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("models--owner--name/blobs/*"))


def test_an_existing_folder_is_refused_before_anything_is_fetched(model, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(DigitError, match="exists already"):
        convert_model(model, tmp_path / "out", name="tiny", cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_ids_are_in_the_order_of_folders():
    ids = imagenet_ids()
    assert ids == sorted(ids) and len(set(ids)) == 1000
    assert all(id.startswith("n") and len(id) == 9 and id[1:].isdigit() for id in ids)


def test_names_are_unique_and_belong_to_their_ids():
    names, ids = imagenet_names(), imagenet_ids()
    assert len({name.lower() for name in names}) == len(names) == 1000
    assert not [name for name in names if name != name.strip() or name.isdigit() or "," in name]
    known = {"n01440764": "tench", "n02099601": "golden retriever", "n02012849": "crane (bird)"}
    known |= {"n03126707": "crane (machine)", "n02113186": "Cardigan Welsh corgi", "n02963159": "cardigan"}
    assert {id: names[ids.index(id)] for id in known} == known
    assert names[207] == "golden retriever"  # the number that every ImageNet classifier gives it


def test_names_agree_with_an_independent_list():
    """torchvision's classifiers carry names of the same classes in the same order, chosen by other people."""
    from torchvision.models._meta import _IMAGENET_CATEGORIES as theirs

    ours = imagenet_names()
    same = sum(a.lower() == b.lower() for a, b in zip(ours, theirs, strict=True))
    assert same > 900
