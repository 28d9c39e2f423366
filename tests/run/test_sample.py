"""`digit sample`: pictures of seeds and classes, and what it says of them."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from digit.files import sha256_file
from digit.run.sample import parse_seeds


def picture_size(path):
    with Image.open(path) as image:
        return image.size


def test_sample_writes_pictures_grid_and_list(chain, run, tmp_path):
    options = ("--seeds", "3-5,9", "--labels", "red", "2", "--codes", "--json")
    code, out, _ = run("sample", chain.root / "model", *options, "--out", tmp_path / "s")
    assert code == 0
    rows = json.loads((tmp_path / "s" / "samples.json").read_text())["samples"]
    assert [row["seed"] for row in rows] == [3, 4, 5, 9]
    assert [row["class"] for row in rows] == ["red", "red", "red", "red"]
    assert len(rows[0]["codes"]) == 16
    assert len(rows[0]["vq_codes"]) == 16
    for row in rows:
        assert picture_size(tmp_path / "s" / row["file"]) == (16, 16)
    assert picture_size(tmp_path / "s" / "grid.png")[0] > 64
    assert json.loads(out)["pictures"] == 4


def test_a_seed_fixes_the_picture_whatever_the_batch(chain, run, tmp_path):
    for name, options in (
        ("a", ("--seeds", "0-6", "--batch", "7")),
        ("b", ("--seeds", "0-6", "--batch", "2")),
    ):
        assert run("sample", chain.root / "model", *options, "--out", tmp_path / name)[0] == 0
    for seed in range(7):
        files = [(tmp_path / name / f"{seed:06d}.png").read_bytes() for name in ("a", "b")]
        assert files[0] == files[1]


def test_a_seed_is_the_same_picture_in_every_list(chain, run, tmp_path):
    """Without --labels the class follows from the seed, not from its place."""
    model = ("sample", chain.root / "model", "--device", "cpu")
    assert run(*model, "--seeds", "0-31", "--out", tmp_path / "all")[0] == 0
    for seeds, batch in (("3-6", 64), ("3-6", 3), ("30,4,17", 1)):
        assert run(*model, "--seeds", seeds, "--batch", batch, "--out", tmp_path / f"{seeds}-{batch}")[0] == 0
        rows = json.loads((tmp_path / f"{seeds}-{batch}" / "samples.json").read_text())["samples"]
        assert [row["seed"] for row in rows] == parse_seeds(seeds)
        for row in rows:
            assert row["label"] == row["seed"] % 3
            drawn = (tmp_path / f"{seeds}-{batch}" / row["file"]).read_bytes()
            assert drawn == (tmp_path / "all" / row["file"]).read_bytes()


@pytest.mark.parametrize("part", ["prior", "renderer", "vqgan"])
def test_weights_that_are_not_finite_draw_nothing(chain, run, tmp_path, part):
    """One sentence that names file and tensor, where a picture of noise or a traceback came before."""
    model = shutil.copytree(chain.root / "model", tmp_path / "model")
    tensors = load_file(model / part / "model.safetensors")
    name = next(name for name, value in tensors.items() if value.is_floating_point())
    tensors[name].view(-1)[-1] = torch.nan
    save_file(tensors, model / part / "model.safetensors")
    config = json.loads((model / part / "config.json").read_text())
    config.pop("checksum")
    config["files"]["model.safetensors"] = sha256_file(model / part / "model.safetensors")
    (model / part / "config.json").write_text(json.dumps(config))
    code, _, errors = run("sample", model, "--num", 1, "--out", tmp_path / "s")
    assert code == 2
    assert f"{part}/model.safetensors holds values that are not finite, in {name}" in errors
    assert errors.count("\n") == 1 and not (tmp_path / "s").exists()


def test_labels_are_of_the_seeds_in_order_and_none_is_dropped(chain, run, tmp_path):
    call = ("sample", chain.root / "model", "--labels", "red", "green", "--out", tmp_path / "s")
    assert run(*call, "--seeds", "9,4,7")[0] == 0
    rows = json.loads((tmp_path / "s" / "samples.json").read_text())["samples"]
    assert [(row["seed"], row["class"]) for row in rows] == [(9, "red"), (4, "green"), (7, "red")]
    code, _, err = run(*call[:-1], tmp_path / "none", "--seeds", "9")
    assert code == 2 and "--labels names 2 classes for 1 picture: give at most one per picture" in err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--unconditional",),
        ("--renderer", "masked", "--passes", "2", "--noise", "1.5"),
        ("--guidance", "2", "--guidance-schedule", "linear"),
        ("--temperature", "0"),
        ("--top-k", "3", "--top-p", "0.9"),
    ],
)
def test_ways_to_sample(chain, run, tmp_path, options):
    code, _, err = run("sample", chain.root / "model", "--num", 2, *options, "--out", tmp_path / "s")
    assert code == 0, err


def test_seeds():
    assert parse_seeds("0-3, 7") == [0, 1, 2, 3, 7]


def test_sample_writes_batch_by_batch(chain, run, tmp_path, monkeypatch):
    """The same pictures in pieces, each on the disk before the next is drawn; labels go on in turn."""
    from digit.pipeline import DigitPipeline

    model = (chain.root / "model", "--device", "cpu", "--seeds", "3-9")
    run("sample", *model, "--out", tmp_path / "whole")
    seen, draw = [], DigitPipeline.__call__

    def watched(*arguments, **settings):
        seen.append(len(list((tmp_path / "pieces").glob("0*.png"))))
        return draw(*arguments, **settings)

    monkeypatch.setattr(DigitPipeline, "__call__", watched)
    code, _, _ = run("sample", *model, "--out", tmp_path / "pieces", "--batch", 3)
    assert code == 0
    assert seen == [0, 3, 6]
    for path in (tmp_path / "whole").glob("*.png"):
        assert path.read_bytes() == (tmp_path / "pieces" / path.name).read_bytes(), path.name
    lists = [json.loads((tmp_path / name / "samples.json").read_text()) for name in ("whole", "pieces")]
    assert lists[0] == lists[1]


def test_an_unknown_label_stops_before_the_first_picture(chain, run, tmp_path):
    call = ("--labels", "red", "green", "purple", "--num", 9, "--batch", 1, "--out", tmp_path / "s")
    code, _, errors = run("sample", chain.root / "model", *call)
    assert code == 2
    assert "purple" in errors
    assert not list((tmp_path / "s").glob("*.png"))


def test_two_lines_say_what_was_drawn_and_how(chain, run, tmp_path):
    call = ("--num", 4, "--top-p", 0.5, "--guidance", 2, "--renderer", "masked", "--out", tmp_path / "s")
    code, out, err = run("sample", chain.root / "model", *call)
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == "4 pictures of 3 classes"
    assert lines[1].startswith("prior: temperature 1") and "top-p 0.5, guidance 2" in lines[1]
    assert lines[2].startswith("masked renderer: ") and "steps 8" in lines[2]
    assert lines[3:5] == [f"saved: {tmp_path / 's' / name}" for name in ("grid.png", "samples.json")]


def test_eight_bits_of_cache_are_a_choice(chain, run, tmp_path):
    call = ("sample", chain.root / "model", "--num", 1, "--device", "cpu", "--out", tmp_path / "s")
    assert run(*call, "--cache-bits", 16)[0] == 0
    code, _, err = run(*call[:-1], tmp_path / "t", "--cache-bits", 8)
    assert code == 2 and "needs a GPU" in err
    assert run(*call, "--cache-bits", 4)[0] == 2


def test_guidance_of_a_renderer(chain, by_class, run, tmp_path):
    options = ("--num", 3, "--renderer-guidance", 2)
    code, out, err = run("sample", by_class.root / "model", *options, "--out", tmp_path / "a")
    assert code == 0, err
    assert "autoregressive renderer: temperature 1.0, guidance 2.0" in out
    written = json.loads((tmp_path / "a" / "samples.json").read_text())
    assert written["settings"]["autoregressive"]["guidance"] == 2.0
    code, _, err = run("sample", chain.root / "model", *options, "--out", tmp_path / "b")
    assert code == 2 and "needs a renderer of classes" in err and not (tmp_path / "b").exists()
    options = ("--num", 3, "--renderer-guidance", 2, "--unconditional")
    code, _, err = run("sample", by_class.root / "model", *options, "--out", tmp_path / "b")
    assert code == 2 and "leave out --renderer-guidance" in err and not (tmp_path / "b").exists()
