"""`digit train renderer --flow`: from codes and the pictures they were made of to an artifact that draws."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import digit
from digit.data.codes import Codes
from digit.data.images import open_images
from digit.data.views import first_views
from digit.errors import DigitError, LineageError
from digit.files import read_json
from digit.nn.batch import ViewBatch
from digit.renderer_flow import FlowRenderer
from digit.renderer_flow_loss import FlowLoss
from digit.run import flow
from digit.run.recipes import FLOW
from digit.training.config import TrainConfig
from digit.weights.artifact import describe, load

CPU = torch.device("cpu")
SMALL = ("--width", 16, "--layers", 1, "--heads", 2, "--steps", 3, "--batch", 8, "--warmup", 1)


@pytest.fixture
def given(chain):
    """What the verb needs, in Python."""
    return {"codes": chain.root / "codes", "images": chain.images, "flow": True, **chain.small}


def line(chain, *more):
    folders = ("--codes", chain.root / "codes", "--images", chain.images)
    return ("train", "renderer", "--flow", *folders, *SMALL, "--device", "cpu", *more)


def test_from_codes_and_pictures_to_an_artifact_that_draws(chain, run, tmp_path):
    unseen = ("--held-out", chain.root / "codes", "--held-out-images", chain.images)
    code, out, err = run(*line(chain, *unseen, "--out", tmp_path / "flow", "--json"))
    assert code == 0, err
    assert json.loads(out)["finished"] and json.loads(out)["held_out_loss"] > 0
    artifact, codes = describe(tmp_path / "flow"), Codes(chain.root / "codes")
    assert artifact["kind"] == "renderer_flow" and artifact["classes"] == codes.classes
    assert artifact["lineage"] == codes.lineage("codes")
    config = artifact["config"]
    assert (config["classes"], config["image_size"], config["patch"]) == (3, 16, 4)
    strip = np.asarray(Image.open(tmp_path / "flow/samples/step-000003.png"))
    assert strip.shape[1] > 16 * 16 and strip.shape[0] >= 2 * 16
    own = torch.from_numpy(codes.array("codes")[:2, 0].astype(np.int64))
    assert load(tmp_path / "flow").sample(own, [0, 1], [0, 2], steps=2).shape == (2, 3, 16, 16)


def test_a_stopped_run_goes_on_to_the_same_weights(given, tmp_path):
    short = replace(given["training"], steps=4)
    digit.train_renderer(**{**given, "training": short}, out=tmp_path / "whole")
    stopped = replace(short, wall_clock_limit=0.0)
    assert not digit.train_renderer(**{**given, "training": stopped}, out=tmp_path / "parts")["finished"]
    assert digit.train_renderer(**{**given, "training": short}, out=tmp_path / "parts")["finished"]
    assert describe(tmp_path / "parts")["id"] == describe(tmp_path / "whole")["id"]


def test_settings_left_out_are_those_of_a_flow_renderer(given, tmp_path, monkeypatch, run, chain):
    seen = {}
    monkeypatch.setattr(
        flow,
        "train_flow",
        lambda codes, out, shape, training, *_, **__: seen.update(shape, training=training) or {},
    )
    digit.train_renderer(given["codes"], tmp_path / "a", flow=True, images=given["images"])
    left_out = {"heads": None, "patch": None, "label_dropout": None}
    assert seen == {"width": 256, "layers": 8, **left_out, "training": FLOW["training"]}
    code, _, err = run("train", "renderer", "--flow", "--codes", given["codes"], "--images", chain.images,
                       "--lr", 1e-3, "--layers", 3, "--out", tmp_path / "a")  # fmt: skip
    assert code == 0, err
    assert (seen["layers"], seen["training"].optimizer.lr) == (3, 1e-3)
    assert seen["training"].optimizer.betas == (0.9, 0.95) and seen["training"].batch == 512
    digit.train_renderer(given["codes"], tmp_path / "a", flow=True, images="x", training=TrainConfig(5, 6))
    assert seen["training"] == TrainConfig(5, 6)


def test_a_student_draws_in_one_pass_what_its_teacher_draws_in_many(chain, given, run, tmp_path):
    """Its first weights are the teacher's; --tokenizer lets features count; the same command goes on."""
    digit.train_renderer(**given, out=tmp_path / "teacher", tokenizer=chain.root / "tokenizer")
    logged = [json.loads(each) for each in (tmp_path / "teacher/log.jsonl").read_text().splitlines()]
    assert all(each["perceptual"] > 0 and each["pixels"] > 0 for each in logged if "loss" in each)
    command = (*line(chain)[:7], "--teacher", tmp_path / "teacher", "--tokenizer", chain.root / "tokenizer")
    command += ("--batch", 8, "--warmup", 1, "--lr", 1e-12, "--device", "cpu")
    code, _, err = run(*command, "--steps", 2, "--out", tmp_path / "student")
    assert code == 0, err
    teacher, student = (load(tmp_path / name) for name in ("teacher", "student"))
    own, was = student.state_dict(), teacher.state_dict()
    apart = {name: float((own[name] - value).abs().max()) for name, value in was.items()}
    assert max(apart.values()) < 1e-6, apart
    assert {name.partition(".")[0] for name in set(own) - set(was)} == {"strengths"}
    assert (student.config.steps, student.config.taught_guidance, student.config.guidance) == (1, 2.5, 1.5)
    assert describe(tmp_path / "student")["extra"] == {"teacher": describe(tmp_path / "teacher")["id"]}
    code, _, err = run(*command, "--steps", 3, "--out", tmp_path / "student")
    assert code == 0 and "3 of 3" in err + _, err


def test_a_teacher_or_tokenizer_of_others_is_refused(chain, given, tmp_path):
    digit.train_renderer(**given, out=tmp_path / "teacher")
    with pytest.raises(DigitError, match="is a renderer"):
        digit.train_renderer(**given, out=tmp_path / "x", teacher=chain.root / "renderer")
    with pytest.raises(DigitError, match="is a vqgan"):
        digit.train_renderer(**given, out=tmp_path / "x", tokenizer=chain.root / "vqgan")
    with pytest.raises(DigitError, match="knows other classes"):
        flow.teacher_of(tmp_path / "teacher", {}, ["blue"])
    with pytest.raises(LineageError, match="tokenizer"):
        flow.teacher_of(tmp_path / "teacher", {"tokenizer": "f" * 64}, ["blue"])
    assert not (tmp_path / "x").exists()


def test_a_dry_run_tells_and_writes_nothing(chain, run, tmp_path):
    code, out, err = run(*line(chain, "--dry-run", "--out", tmp_path / "flow", "--json"))
    assert code == 0, err
    told = json.loads(out)
    assert told["settings"]["model"]["image_size"] == 16 and told["inputs"]["pictures"] == 48
    assert told["flops"]["per_sample"] > 0 and told["memory"]["gib"]["activations"] > 0
    assert not list(tmp_path.iterdir())


def test_the_same_noise_measures_each_time(chain, given, tmp_path):
    codes, how = given["codes"], (["blue", "green", "red"], TrainConfig(steps=1, batch=20), CPU)
    lineage = Codes(codes).lineage("codes")
    evaluate = flow.held_out_loss(codes, chain.images, lineage, *how)
    torch.manual_seed(0)
    config = flow.config_of(Codes(codes), 3, width=16, layers=1, heads=2, patch=None)
    stage = FlowLoss(FlowRenderer(config)).eval()
    stage.requires_grad_(False)
    first = dict(evaluate(stage, 0))
    torch.rand(1)
    assert dict(evaluate(stage, 5)) == first
    with pytest.raises(LineageError, match="belongs to the tokenizer"):
        flow.held_out_loss(codes, chain.images, {"tokenizer": "f" * 64}, *how)
    with pytest.raises(DigitError, match="red"):
        flow.held_out_loss(codes, chain.images, lineage, ["blue", "green"], *how[1:])


def test_a_strip_has_the_pictures_above_what_is_drawn_of_their_codes(chain, monkeypatch):
    codes = Codes(chain.root / "codes")
    shown, told = first_views(codes, open_images(chain.images), np.array([0, 20, 47])), []
    grey = FlowRenderer(flow.config_of(codes, 3, width=16, layers=1, heads=2, patch=None))  # as new ones are
    sample = grey.sample
    monkeypatch.setattr(grey, "sample", lambda *given: told.append(given) or sample(*given))
    picture = np.asarray(flow.strips(shown, CPU)(FlowLoss(grey), 0))
    assert torch.equal(told[0][0], shown.codes) and list(told[0][1]) == [0, 1, 2]
    assert torch.equal(told[0][2], torch.from_numpy(codes.labels[[0, 20, 47]]))
    above, below = np.split(picture, 2)
    is_grey, is_white = ((below == level).all(-1) for level in (128, 255))
    assert (is_grey | is_white).all() and is_grey.any() and not (above == 128).all(-1).any()
    flow.strips(ViewBatch(shown.pixels, shown.codes), CPU)(FlowLoss(grey), 0)
    assert told[1][2] is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": None}, "give images, the pictures that codes was made of"),
        ({"masked": True}, "flow and masked exclude each other"),
        ({"recipe": "renderer_ar"}, "recipe renderer_ar has flow=False"),
        ({"held_out": "codes"}, "held_out and held_out_images go together"),
        ({"held_out_images": "images"}, "held_out and held_out_images go together"),
        ({"patch": 3}, "do not fill"),
        ({"patch": 16}, "square root"),
        ({"heads": 3}, "choose a divisor"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(given, chain, tmp_path, changes, said):
    places = {"codes": chain.root / "codes", "images": chain.images}
    changes = {name: places.get(value, value) for name, value in changes.items()}
    with pytest.raises(DigitError, match=said):
        digit.train_renderer(**{**given, **changes}, out=tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_pictures_of_other_codes_are_refused(given, tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "one.png")
    with pytest.raises(DigitError, match="does not hold the pictures that"):
        digit.train_renderer(**{**given, "images": tmp_path / "one.png"}, out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_codes_of_some_pictures_are_found_among_all(chain, given, tmp_path):
    """As `digit tokenize --num` spread them."""
    from digit.run.tokenize import tokenize

    tokenize(chain.images, tmp_path / "some", tokenizer=chain.root / "tokenizer", num=20, device="cpu")
    found = digit.train_renderer(**{**given, "codes": tmp_path / "some"}, out=tmp_path / "x")
    assert found["finished"]


def test_a_folder_of_another_renderer_is_not_gone_on_with(given, chain, tmp_path):
    shutil.copytree(chain.root / "renderer", tmp_path / "renderer")
    with pytest.raises(DigitError, match="choose another out"):
        digit.train_renderer(**given, out=tmp_path / "renderer")
    assert describe(tmp_path / "renderer")["kind"] == "renderer"


def test_codes_without_classes_make_a_renderer_without(given, tmp_path):
    folder = tmp_path / "unlabelled"
    shutil.copytree(given["codes"], folder)
    meta = read_json(folder / "meta.json")
    (folder / "meta.json").write_text(json.dumps(meta | {"labelled": False, "classes": []}))
    digit.train_renderer(**{**given, "codes": folder}, out=tmp_path / "x")
    assert describe(tmp_path / "x")["config"]["classes"] == 0 and not describe(tmp_path / "x")["classes"]
