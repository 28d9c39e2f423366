"""Completing pictures from a prefix of their codes, for people and as a measurement."""

import io
import json

import numpy as np
import torch
from PIL import Image

from digit.pipeline import DigitPipeline


def pixels_of(path):
    with Image.open(path) as image:
        return np.array(image)


def samples_of(folder):
    return json.loads((folder / "samples.json").read_text())


def test_the_prefix_is_the_pictures_own_and_the_rest_is_drawn(chain, places, run, tmp_path):
    model = DigitPipeline.from_pretrained(chain.root / "model")
    call = ("sample", chain.root / "model", "--prefix-from", places / "pictures", "--codes", "--json")
    code, out, err = run(*call, "--prefix", 10, "--num", 3, "--out", tmp_path / "s")
    assert code == 0, err
    assert json.loads(out)["pictures"] == 15
    content = samples_of(tmp_path / "s")
    for row in content["samples"]:
        image = pixels_of(places / "pictures" / row["from"])
        own = model.encode(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)[0].tolist()
        assert row["codes"][:10] == own[:10]
        assert row["class"] == row["from"].split("/")[0]  # the folder is a class of the model
        assert pixels_of(tmp_path / "s" / row["file"]).shape == (16, 16, 3)
    drawn = {tuple(row["codes"]) for row in content["samples"]}
    assert len(drawn) > 5  # seeds differ
    strip = pixels_of(tmp_path / "s" / content["strips"][0]["file"])
    assert strip.shape == (118, (2 + 3) * (96 + 2) + 2, 3)
    assert len(content["strips"]) == 5 and content["settings"]["prefix"] == 10


def test_batches_do_not_matter_and_all_codes_give_the_reconstruction(chain, places, run, tmp_path):
    call = ("sample", chain.root / "model", "--prefix-from", places / "pictures", "--seeds", "4-6", "--codes")
    for name, batch in (("a", 64), ("b", 2), ("c", 4)):
        code, _, err = run(*call, "--prefix", 7, "--batch", batch, "--out", tmp_path / name)
        assert code == 0, err
    lists = [samples_of(tmp_path / name) for name in ("a", "b", "c")]
    assert lists[0] == lists[1] == lists[2]  # the codes too
    for path in (tmp_path / "a").glob("*.png"):
        whole = pixels_of(path).astype(int)
        for other in ("b", "c"):
            # A convolution's last bit depends on the batch, and a pixel between two levels on it.
            assert abs(whole - pixels_of(tmp_path / other / path.name)).max() <= 1, path.name
    run(*call, "--prefix", 16, "--out", tmp_path / "whole")
    strip = pixels_of(tmp_path / "whole" / "strip-000000.png")
    again, first = strip[20:116, 100:196], strip[20:116, 198:294]  # rendered from all codes with seed 4
    assert np.array_equal(again, first)


def test_a_prefix_of_nothing_is_plain_sampling(chain, places, run, tmp_path):
    model = ("sample", chain.root / "model", "--seeds", "3-4")
    run(
        *model, "--prefix-from", places / "one.png", "--prefix", 0, "--labels", "red", "--out", tmp_path / "p"
    )
    run(*model, "--labels", "red", "--out", tmp_path / "s")
    for seed in (3, 4):
        completed = (tmp_path / "p" / f"000000-{seed:06d}.png").read_bytes()
        assert completed == (tmp_path / "s" / f"{seed:06d}.png").read_bytes()


def test_without_a_class_of_its_own_a_completion_takes_its_seeds(chain, places, run, tmp_path):
    model = ("sample", chain.root / "model", "--seeds", "7,2,4", "--codes")
    code, _, err = run(
        *model, "--prefix-from", places / "one.png", "--prefix", 0, "--batch", 2, "--out", tmp_path / "p"
    )
    assert code == 0
    assert err.count("one.png has no folders of classes: each completion takes its seed's class;") == 1
    assert "give --labels, or --unconditional to draw without" in err
    run(*model, "--out", tmp_path / "s")
    completed, drawn = (samples_of(tmp_path / name)["samples"] for name in ("p", "s"))
    assert [row["label"] for row in completed] == [1, 2, 1]
    assert [row["codes"] for row in completed] == [row["codes"] for row in drawn]
    one = ("--prefix-from", places / "one.png", "--prefix", 8, "--guidance", 2, "--out", tmp_path / "g")
    assert run(*model, *one)[0] == 0


def test_pictures_without_a_class_and_a_vq_only_model(chain, places, run, tmp_path):
    for model, more in ((chain.root / "model", ["--unconditional"]), (places / "vq", [])):
        out = tmp_path / model.name
        call = ("--prefix-from", places / "one.png", "--prefix", 8, *more, "--out", out)
        code, _, err = run("sample", model, *call)
        assert code == 0, err
        assert err.startswith(f"{places / 'one.png'}: 1 picture, no classes") and err.count("class") == 1
        assert samples_of(out)["read_as"] == err.splitlines()[0]
        assert len(samples_of(out)["samples"]) == 8
        assert samples_of(out)["samples"][0]["label"] is None


def test_folders_that_are_no_classes_of_the_model(chain, places, run, tmp_path):
    (tmp_path / "x" / "holiday").mkdir(parents=True)
    (tmp_path / "x" / "work").mkdir()
    for name in ("holiday/a.png", "work/b.png"):
        (tmp_path / "x" / name).write_bytes((places / "one.png").read_bytes())
    call = ("--prefix-from", tmp_path / "x", "--prefix", 8, "--num", 1, "--out", tmp_path / "s")
    code, _, err = run("sample", chain.root / "model", *call)
    assert code == 0
    assert "holiday" in err and "is no class of the model: each completion takes its seed's class" in err
    assert [row["label"] for row in samples_of(tmp_path / "s")["samples"]] == [0, 0]
    code, _, err = run("sample", chain.root / "model", *call[:-1], tmp_path / "free", "--unconditional")
    assert code == 0 and "(holiday 1, work 1)" in err and "is no class" not in err
    assert [row["label"] for row in samples_of(tmp_path / "free")["samples"]] == [None, None]


def test_what_completing_refuses(chain, places, run, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    model = ("sample", chain.root / "model")
    one = ("--prefix-from", places / "one.png")
    for call, words in (
        ((*model, *one, "--prefix", 17), "--prefix 17: pictures of this model have 16 codes, give 0 to 16"),
        ((*model, *one, "--prefix", -1), "--prefix: -1 is out of bounds"),
        ((*model, *one), "--prefix-from and --prefix go together"),
        ((*model, "--prefix", 3), "--prefix-from and --prefix go together"),
        ((*model, "--prefix-from", tmp_path / "broken.png", "--prefix", 3), "broken.png"),
        ((*model, "--prefix-from", tmp_path / "none.png", "--prefix", 3), "none.png does not exist"),
        (("sample", places / "blind", *one, "--prefix", 3), "no tokenizer"),
        ((*model, *one, "--prefix", 3, "--guidance", 2, "--unconditional"), "guidance needs classes"),
        ((*model, *one, "--prefix", 3, "--labels", 0, 1), "--labels names 2 classes for 1 picture: give"),
    ):
        code, out, err = run(*call, "--out", tmp_path / "s")
        assert code == 2 and words in err, (call, err)
        assert not out and not list((tmp_path / "s").glob("*"))


def test_pictures_are_read_in_any_format(chain, run, tmp_path):
    """A photo as people have them: large, not square, JPEG."""
    data = io.BytesIO()
    Image.new("RGB", (90, 61), (200, 30, 30)).save(data, "JPEG")
    (tmp_path / "photo.JPG").write_bytes(data.getvalue())
    call = ("--prefix-from", tmp_path / "photo.JPG", "--prefix", 8, "--num", 1, "--out", tmp_path / "s")
    code, _, err = run("sample", chain.root / "model", *call)
    assert code == 0, err
