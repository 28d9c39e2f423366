"""experiments/measurements.py: every part in small, taken up where it stopped, carried away and published."""

import itertools
import json
import re
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import measurements
import pytest
import torch
from measuring.found import Found, at_edge
from measuring.page import sections
from measuring.parcel import CONTENTS, unpack
from measuring.plan import Part, parts
from measuring.publish import ABSOLUTE
from measuring.readings import flatness, needed
from measuring.scale import FULL, SMOKE
from measuring.side_by_side import Desk, side_by_side
from measuring.words import ahead, setting
from tests_support import make_pictures

from digit.errors import DigitError
from digit.evaluation.networks import squeezenet
from digit.evaluation.prefix import Point
from digit.evaluation.result import read_result
from digit.files import read_json
from digit.nn.backbone import timm
from digit.tensors import write_safetensors_atomic

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def command(chain, tmp_path_factory) -> list[str]:
    root = tmp_path_factory.mktemp("measurements")
    file, pictures = root / "squeezenet.safetensors", make_pictures(root / "pictures.zip", count=12)
    torch.manual_seed(0)
    write_safetensors_atomic(file, squeezenet().state_dict())
    files = ["--images", str(pictures), "--test", str(pictures), "--squeezenet", str(file)]
    return [*files, "--model", str(chain.root / "model"), "--smoke", "--device", "cpu", "--workers", "0"]


def test_every_part_in_small_then_carried_and_published(command, tmp_path, monkeypatch):
    out, carried = tmp_path / "run", tmp_path / "carried"
    assert measurements.main([*command, "--out", str(out), "--results", str(carried)]) == 0
    done = {path.stem for path in (out / "done").glob("*.json")}
    assert done == {part.name for part in parts(SMOKE)}
    files = {path.name: path.stat().st_size for path in carried.iterdir()}
    assert set(files) == {"measurements.tar", "classifier.tar", "model_vq.tar"}
    assert set(files) < set(CONTENTS)

    # On another machine only what is not carried is made again: the codes.
    again, ran = tmp_path / "again", []
    monkeypatch.setattr(measurements, "do", lambda name, run: ran.append(name))
    assert measurements.main([*command, "--out", str(again), "--from", str(carried)]) == 0
    assert ran == ["codes-train", "codes-test"]

    kept = tmp_path / "kept"
    assert measurements.main(["--out", str(again), "--publish", str(kept)]) == 0
    for name in ("sweep-digit-free", "prefix-vq-class", "winners-digit-class", "classifier", "probe"):
        made = (out / "results" / f"{name}.json").read_text()
        assert read_result(kept / f"{name}.json") == json.loads(ABSOLUTE.sub(r"\1", made))
        assert str(tmp_path) not in (kept / f"{name}.json").read_text()
    drawn = {path.name for path in kept.glob("*.png")}
    assert drawn == {
        *("prefix.png", "sweep-free.png", "sweep-class.png", "sweep-pareto.png", "probe.png"),
        *("projection-toy.png", "projection-features.png", "reconstruction.png"),
    }  # the renderer's top-p has one value in the small grid
    text = "\n".join(sections(Found(kept), [], 0.91))
    for name in drawn:
        assert f"/{name})" in text
    for part in ("tables 3 and 4", "figure 6", "figure 4b", "table 2, figure 3b", "last rows of table 3"):
        assert re.search(rf"^### .*{part}", text, re.MULTILINE), part
    assert "| VQ only | " in text and "1.67 / 175.56" in text


def cell(value: float, **setting: float) -> dict:
    return {"setting": {"guidance": 1.0, **setting}, "values": {"FD-x": value}}


def test_what_the_page_says_follows_from_its_figures():
    cells = [cell(3.0, top_k=0), cell(2.0, top_k=400), cell(1.0, top_k=30)]
    assert at_edge(cells, cells[2]) == ["top_k"]  # the shortest list
    assert at_edge(cells, cells[1]) == at_edge(cells, cells[0]) == []
    assert (
        setting({"temperature": 1.0, "top_p": 0.9, "renderer_top_p": 0.8}) == "top-p 0.9, renderer top-p 0.8"
    )
    assert (ahead(1.5, 2.0), ahead(3.0, 2.0)) == ("25% ahead", "50% behind")
    curve = [Point("m", n, 64, {"FD-x": value}) for n, value in ((0, 20.0), (16, 10.0), (64, 4.0))]
    assert flatness(curve, "FD-x") == {"start": 20.0, "end": 4.0, "fall": 16.0, "quarter": 10 / 16}
    assert needed(curve, "FD-x", 15.0) == 8.0 and needed(curve, "FD-x", 1.0) == float("inf")


def test_photos_are_projected_by_a_tokenizer_of_others(tmp_path):
    make_pictures(tmp_path / "flat.zip", count=12, size=32)
    with zipfile.ZipFile(tmp_path / "flat.zip") as old, zipfile.ZipFile(tmp_path / "p.zip", "w") as new:
        for name, folder in itertools.product(old.namelist(), ("train", "val")):
            new.writestr(f"{folder}/{name}", old.read(name))
    vit = timm().create_model("vit_small_patch14_dinov2", num_classes=0)
    write_safetensors_atomic(tmp_path / "small.safetensors", vit.state_dict())
    command = ["--photos", str(tmp_path / "p.zip"), "--encoder", str(tmp_path / "small.safetensors")]
    assert measurements.main([*command, "--out", str(tmp_path / "o"), "--smoke", "--device", "cpu"]) == 0
    found = read_result(tmp_path / "o" / "results" / "projection-photos.json")
    assert found["counts"] == {"pictures": 12, "classes": 3} and found["features"][0]["name"] == "small"
    assert (tmp_path / "o" / "results" / "projection-photos.png").stat().st_size > 10_000


def test_the_parts_follow_from_the_grids():
    for scale in (FULL, SMOKE):
        names = [part.name for part in parts(scale)]
        assert len(names) == len(set(names))
        assert all(need in names for part in parts(scale) for need in part.needs)
        assert {tuple(name.split("-")[1:]) for name in names if name.startswith("sweep-")} == set(scale.grids)


def sleeper(name: str, seconds: float) -> list[str]:
    code = {"bad": "raise SystemExit(1)", "sweep-slow": "import time; time.sleep(60)"}.get(name, "pass")
    return [sys.executable, "-c", code]


def test_a_part_that_fails_or_is_late_stops_only_what_needs_it(tmp_path, monkeypatch):
    monkeypatch.setattr("measuring.side_by_side.START", 0.0)
    monkeypatch.setattr("measuring.side_by_side.RESERVE", 1.0)
    plan = [
        *(
            Part("bad", (), 0),
            Part("good", (), 0),
            Part("after-bad", ("bad",), 0),
            Part("after-good", ("good",), 0),
        ),
        *(Part("sweep-slow", (), 0), Part("winners-slow", ("sweep-slow",), 0), Part("endless", (), 1e6)),
    ]
    landed, now = [], [0.0]

    def arrived(name):
        landed.append(name)
        if name == "after-good":
            now[0] = 4.5  # within the reserve

    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda _: time.sleep(0.02))
    monkeypatch.setattr("measuring.side_by_side.time", clock)
    left = side_by_side(plan, Desk(tmp_path), sleeper, workers=3, deadline=5.0, landed=arrived)
    assert left == {
        "bad": "code 1, see logs/bad.log",
        "after-bad": "bad did not end well",
        "endless": "no time was left",
        "sweep-slow": "some cells are left",
    }
    # What a stopped sweep has found is used, and used again when the sweep is whole.
    assert landed == ["good", "after-good", "winners-slow"]
    desk = Desk(tmp_path)
    assert desk.done("winners-slow") and set(desk.seconds()) == set(landed)
    desk.finish("sweep-slow", 1.0)
    assert not desk.done("winners-slow")


def test_each_device_takes_its_share_of_the_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("measuring.side_by_side.START", 0.0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")

    def note(name: str, seconds: float) -> list[str]:
        # Ends when the other has begun: one device alone, with one worker, would never get there.
        code = (
            "import os, pathlib, time; out = pathlib.Path({0!r}); "
            "(out / {1!r}).write_text(os.environ['CUDA_VISIBLE_DEVICES'])\n"
            "while len(list(out.glob('gpu-*'))) < 2: time.sleep(0.01)"
        )
        return [sys.executable, "-c", code.format(str(tmp_path), f"gpu-{name}")]

    plan = [Part("a", (), 0), Part("b", (), 0)]
    deadline = time.monotonic() + 60
    how = {"devices": 2, "workers": 1, "deadline": deadline, "landed": lambda name: None}
    assert side_by_side(plan, Desk(tmp_path), note, **how) == {}
    assert sorted(path.read_text() for path in tmp_path.glob("gpu-*")) == ["4", "7"]


def test_options_that_cannot_be_meant(tmp_path, capsys):
    assert measurements.main(["--out", str(tmp_path)]) == 2
    assert "--images None: give the file" in capsys.readouterr().err
    assert measurements.main(["--out", str(tmp_path / "no"), "--publish", str(tmp_path / "kept")]) == 2
    with pytest.raises(DigitError, match="holds none of"):
        unpack(tmp_path, tmp_path / "out", tmp_path)
    assert read_json(ROOT / "bench" / "results" / "measurements" / "projection-photos.json")
