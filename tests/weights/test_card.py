"""A model's card says what is known of it, in the hub's form, and nothing that a file says is obeyed."""

import json
import shutil

import pytest
from huggingface_hub import ModelCard

import digit
from digit.errors import DigitError
from digit.evaluation.result import result, write_result
from digit.features import published
from digit.nn.backbone import DINOV3_LICENCE
from digit.weights.artifact import describe
from digit.weights.card import _front_licence, beside, card
from digit.weights.model_folder import read_config


@pytest.fixture
def model(chain, tmp_path):
    """A model's folder, its config.json and those of its parts."""
    folder = tmp_path / "model"
    shutil.copytree(chain.root / "model", folder)
    config = read_config(folder)
    return folder, config, {name: describe(folder / name) for name in config["parts"]}


def test_the_hub_reads_it(model):
    folder, config, parts = model
    read = ModelCard((folder / "README.md").read_text())
    assert read.data.to_dict() == {
        "license": "unknown",
        "library_name": "digit",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["digit", "arxiv:2410.12490"],
    }
    for part in parts.values():
        assert f"`{part['id'][:12]}` | not stated: ask who made them |" in read.content
    assert "Not stated by its maker." in read.content and "Classes: blue, green, red." in read.content
    assert json.dumps(config["sampling"], indent=1) in read.content and "](grid.png)" not in read.content
    stated = {**config, "licence": "mit", "datasets": ["me/photos"]}
    parts["tokenizer"]["extra"] |= {"licence": "apache-2.0", "base_model": "timm/vit.lvd142m"}
    data = ModelCard(card(folder, stated, parts, pictured=True)).data.to_dict()
    assert data["license"] == "other" and data["license_name"] == "several-see-the-card"
    assert data["datasets"] == ["me/photos"] and data["base_model"] == ["timm/vit.lvd142m"]


def test_the_licence_is_that_of_all_weights_or_a_word_for_them():
    assert _front_licence(["mit", "mit"]) == {"license": "mit"}
    assert _front_licence(["mit", None]) == {"license": "unknown"}
    assert _front_licence([DINOV3_LICENCE, None])["license_name"] == "dinov3-license"
    assert published("vit_base_patch16_224.mae")["licence"] == "cc-by-nc-4.0"
    assert published("vit_small_patch14_dinov2")["base_model"].startswith("timm/vit_small_patch14_dinov2.")
    assert published("nobody") == {}


def test_what_timm_says_of_an_encoder_stays_with_its_tokenizer(chain, tmp_path):
    tokenizer = digit.load(chain.root / "tokenizer")
    assert not describe(chain.root / "tokenizer")["extra"].get("licence")  # of a file nothing is known
    tokenizer.encoder.origin = {"licence": "apache-2.0", "base_model": "timm/some"}
    digit.save(tokenizer.encoder, tmp_path / "encoder")
    encoder = digit.load(tmp_path / "encoder")
    again = digit.Tokenizer(tokenizer.config, encoder=encoder, centroids=tokenizer.centroids)
    digit.save(again, tmp_path / "tokenizer")
    told = describe(tmp_path / "tokenizer")["extra"]
    assert (told["licence"], told["base_model"]) == ("apache-2.0", "timm/some")


def test_results_stand_in_it_with_their_protocol(model):
    folder, config, parts = model
    found = [("FD-net-01234567", 12.5), ("precision-net-01234567", 0.75)]
    (folder / "results").mkdir()
    write_result(
        folder / "results" / "images.json",
        result("images", found, protocol="FD: of <b>features</b>", counts={"samples": 10_000}),
    )
    read = ModelCard(card(folder, config, parts))
    assert "| FD-net-01234567 | 12.5 |" in read.content and "10,000 samples" in read.content
    assert r"Protocol: FD: of \<b\>features\</b\>" in read.content
    assert read.data.to_dict()["metrics"] == ["fd", "precision"]
    (folder / "results" / "other.json").write_text("{}")
    with pytest.raises(DigitError, match=r"other\.json is no result of `digit evaluate`"):
        card(folder, config, parts)


def test_a_card_changed_by_hand_stays(model):
    folder, config, parts = model
    assert "README.md" in beside(folder, config, parts)
    digit.DigitPipeline.from_pretrained(folder).save_pretrained(folder, licence="mit")
    text = (folder / "README.md").read_text()
    assert 'license: "mit"' in text and read_config(folder)["licence"] == "mit"
    (folder / "README.md").write_text(text.replace("# A digit model", "# Mine"))
    assert "README.md" not in beside(folder, config, parts)
    digit.DigitPipeline.from_pretrained(folder).save_pretrained(folder)
    assert "# Mine" in (folder / "README.md").read_text()


def test_names_out_of_files_are_shown_and_not_obeyed(model):
    folder, config, parts = model
    config["classes"] = ["![x](http://a/b.png)", "<script>", "a | b", "`c`\n# d", "\x1b[31m"]
    parts["prior"]["made_by"] = {"digit": "| x |\n# y"}
    text = card(folder, config, parts)
    shown = text[text.index("Classes: ") : text.index("## Data")]
    assert "![x]" not in shown and "<script>" not in shown and "\x1b" not in shown
    assert not [line for line in shown.splitlines()[1:] if line.startswith("# ")]


def test_what_lies_beside_is_not_fetched_and_not_run(model):
    folder, _, _ = model
    (folder / "pipeline.py").write_text("raise SystemExit('run')")
    digit.DigitPipeline.from_pretrained(folder)
    assert json.loads((folder / "model_index.json").read_text())["_class_name"][0] == "pipeline"
