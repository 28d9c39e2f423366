"""A model goes to a hub and comes back from it; what is uploaded is the model alone."""

import io
import shutil

import huggingface_hub
import numpy as np
import pytest
import torch
from fake_hub import fake_hub
from PIL import Image

from digit.errors import DigitError
from digit.pipeline import DigitPipeline
from digit.weights.push import push_folder, sheet

# The hub's client hands httpx what it uploads by a name that httpx would like to see changed.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that the client takes for its own, and the token that may write."""
    with fake_hub() as hub:
        hub.be_the_hub(monkeypatch, tmp_path / "cache")
        yield hub


@pytest.fixture
def folder(chain, tmp_path):
    """A model of the chain's, with a training's state and somebody's notes in its folder."""
    folder = tmp_path / "model"
    shutil.copytree(chain.root / "model", folder)
    (folder / "notes.txt").write_text("mine")
    (folder / "state").mkdir()
    (folder / "state" / "secret.json").write_text("{}")
    return folder


def test_a_model_goes_to_a_hub_and_comes_back(hub, folder):
    here = DigitPipeline.from_pretrained(folder)
    address = push_folder(folder, "me/model", private=True, draw=lambda: sheet(here))
    assert address.startswith(f"{hub.endpoint}/me/model/commit/")
    assert hub.made[0]["name"] == "model" and "private" in (hub.made[0].get("visibility"), "private")
    names = {name.removeprefix("me/model/") for name in hub.files}
    parts = {f"{part.name}/{file}" for part in folder.iterdir() if (part / "config.json").is_file()
             for file in ("config.json", "model.safetensors")}  # fmt: skip
    assert names == parts | {"config.json", "README.md", "model_index.json", "pipeline.py", "grid.png"}
    for file in parts | {"config.json", "pipeline.py"}:
        assert hub.files[f"me/model/{file}"] == (folder / file).read_bytes()
    back = DigitPipeline.from_pretrained("me/model")
    drawn = back(seeds=[1, 6])
    assert torch.equal(drawn.pixels, here(seeds=[1, 6]).pixels)
    shown = Image.open(io.BytesIO(hub.files["me/model/grid.png"]))
    assert shown.size == (64, 64)
    for image, place in zip(drawn.images, ((16, 0), (32, 16)), strict=True):
        cut = shown.crop((*place, place[0] + 16, place[1] + 16))
        assert np.array_equal(np.asarray(cut), np.asarray(image))
    card = hub.files["me/model/README.md"].decode()
    assert "](grid.png)" in card and 'from_pretrained("me/model")' in card
    assert not (folder / "grid.png").exists()  # the folder stays as it was


def test_a_revision_is_a_branch_of_its_own(run, hub, folder):
    here = DigitPipeline.from_pretrained(folder)
    address = here.push_to_hub("me/model", revision="int8", stored_as="int8", licence="mit")
    assert address.startswith(f"{hub.endpoint}/me/model/commit/")
    assert hub.files and all(name.startswith("me/model@int8/") for name in hub.files)
    assert 'license: "mit"' in hub.files["me/model@int8/README.md"].decode()
    there = DigitPipeline.from_pretrained("me/model", revision="int8")
    same = DigitPipeline.from_pretrained("me/model@int8")
    assert torch.equal(there(seeds=[1]).pixels, same(seeds=[1]).pixels)
    code, _, said = run("info", "me/model@int8")
    assert code == 0, said
    for name, revision, sentence in (
        ("me/model@int8", "main", "names a revision, and revision another one"),
        (str(folder), "main", "is a folder here, and revision names one of the hub"),
        (None, "main", "is a folder here, and revision names one of the hub"),
    ):
        with pytest.raises(DigitError, match=sentence):
            DigitPipeline.from_pretrained(name, revision=revision)


def test_what_somebody_wrote_is_uploaded_as_it_is_and_links_are_not(hub, folder, tmp_path):
    (folder / "README.md").write_text("my own words")
    Image.new("RGB", (3, 3), "red").save(folder / "grid.png")
    push_folder(folder, "me/model", endpoint=hub.endpoint)
    assert hub.files["me/model/README.md"] == b"my own words"
    assert hub.files["me/model/grid.png"] == (folder / "grid.png").read_bytes()
    hub.files.clear()
    (tmp_path / "secret").write_text("token")
    for name in ("README.md", "grid.png", "config.json"):
        kept = (folder / name).read_bytes()
        (folder / name).unlink()
        secret = tmp_path / "secret"
        if name == "config.json":
            secret = tmp_path / "config.json"
            secret.write_bytes(kept)
        (folder / name).symlink_to(secret)
        with pytest.raises(DigitError, match=f"{name} cannot be uploaded .it is a link"):
            push_folder(folder, "me/model", endpoint=hub.endpoint)
        (folder / name).unlink()
        (folder / name).write_bytes(kept)
    assert not hub.files


def test_a_damaged_part_is_not_uploaded(hub, folder):
    data = bytearray((folder / "prior" / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "prior" / "model.safetensors").write_bytes(data)
    with pytest.raises(DigitError, match="is not the file that config"):
        push_folder(folder, "me/model", endpoint=hub.endpoint)
    assert not hub.files and not hub.made


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"writer": "another"}, r"the hub refuses me/model \(401\): log in by `hf auth login`"),
        ({"status": 403}, r"the hub refuses me/model \(403\)"),
        ({"status": 500}, r"the hub answers 500 to me/model .*: repeat the command later"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(hub, folder, change, sentence):
    Image.new("RGB", (3, 3)).save(folder / "grid.png")
    for name, value in change.items():
        setattr(hub, name, value)
    with pytest.raises(DigitError, match=sentence):
        push_folder(folder, "me/model")
    assert not hub.files


def test_without_a_hub_nothing_waits(run, folder, monkeypatch, hub):
    for name in ("model", "me/mo del", "./me/model", "/me"):
        with pytest.raises(DigitError, match=f"{name} is no repository of the hub"):
            push_folder(folder, name)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DigitError, match="the hub is not asked, as HF_HUB_OFFLINE is set"):
        push_folder(folder, "me/model")
    code, _, said = run("sample", "me/other@v1", "--num", 1)
    assert code == 2 and "me/other config.json is not in the cache and the hub cannot be reached" in said
