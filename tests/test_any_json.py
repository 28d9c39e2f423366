"""Whatever stands in a JSON file that digit writes: who reads it takes it or refuses it in one sentence.

Entries are replaced by strange ones or taken away, and sealed again, so that the file is no damaged one.
"""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from strange_json import changed
from training.stages import Plain, data

from digit.data.codes import Codes
from digit.data.images import open_images
from digit.data.samples import listed_samples
from digit.data.write_codes import CodeKind, write_codes
from digit.errors import DigitError
from digit.evaluation.networks import Network
from digit.evaluation.pictures import Pictures
from digit.evaluation.result import read_result, result, write_result
from digit.evaluation.sweep import best
from digit.files import read_json, write_json_atomic
from digit.pipeline import DigitPipeline
from digit.printing import SENTENCE
from digit.run.claim import claim
from digit.run.contents import contents
from digit.run.draw import LISTS, _is_drawn, _listed, _read_pixels, draw
from digit.run.evaluate.checks import compare_results
from digit.run.evaluate.completions import Curve
from digit.run.evaluate.measurement import generated
from digit.run.evaluate.probe_states import cached_rows
from digit.run.evaluate.sweep_grid import Cells, grid_of
from digit.training.checkpoint import STATE, paths
from digit.training.config import OptimizerConfig, TrainConfig
from digit.training.log import draw as draw_log
from digit.training.log import read, read_status
from digit.training.loop import train
from digit.weights.artifact import load
from digit.weights.model_folder import PipelineSampling, open_model
from digit.weights.storage import from_dict, to_dict

CPU = torch.device("cpu")
PAIRS = 40  # that are tried of each file, the same in each run

Reader = Callable[[Path], Any]  # of the folder


def hold(path: Path, read_it: Callable[[], Any], *, text: Callable[[Any], str] | None = None) -> None:
    """Each change is taken or refused in one sentence, and the file as it was is taken."""
    kept = path.read_bytes()
    read_it()
    whole = json.loads(kept.splitlines()[-1] if text else kept)
    sealed = isinstance(whole, dict) and whole.pop("checksum", None) is not None
    refused = taken = 0
    for value in changed(whole, path.name, PAIRS):
        if text:
            path.write_text(text(value))
        else:
            write_json_atomic(path, value, checksum=sealed and isinstance(value, dict))
        try:
            read_it()
            taken += 1
        except DigitError as error:
            refused += 1
            assert str(error).isprintable() and len(str(error)) <= SENTENCE
    assert refused or text
    path.write_bytes(kept)


@pytest.mark.parametrize("name", ["prior", "tokenizer", "vqgan", "masked"])
def test_settings_of_an_artifact(chain, tmp_path, name):
    shutil.copytree(chain.root / name, tmp_path / name)

    def read_it() -> None:
        with contextlib.suppress(DigitError):
            contents(str(tmp_path / name))
        load(tmp_path / name)

    hold(tmp_path / name / "config.json", read_it)


def test_settings_of_a_model(chain, tmp_path):
    shutil.copytree(chain.root / "model", tmp_path / "model")

    def read_it() -> None:
        contents(str(tmp_path / "model"))
        found = open_model(tmp_path / "model", parts=["renderer"])
        pipeline = DigitPipeline(**found.parts, classes=found.classes, sampling=found.sampling)
        assert pipeline(seeds=[0, 1]).images

    hold(tmp_path / "model" / "config.json", read_it)


def test_how_a_model_draws(tmp_path):
    path = tmp_path / "sampling.json"
    write_json_atomic(path, to_dict(PipelineSampling()))
    hold(path, lambda: from_dict(PipelineSampling, read_json(path), where=str(path)))


def test_what_codes_are_of(chain, tmp_path):
    shutil.copytree(chain.root / "codes", tmp_path / "codes")

    def read_it() -> None:
        contents(str(tmp_path / "codes"))
        codes = Codes(tmp_path / "codes")
        assert codes.lineage() and codes.vocabulary("codes") <= 65536

    hold(tmp_path / "codes" / "meta.json", read_it)


def test_the_plan_of_unfinished_codes(chain, tmp_path):
    source = open_images(chain.images).select(range(3))
    kinds = {"codes": CodeKind(lambda pixels: torch.zeros(len(pixels), 4, dtype=torch.int64), 8, "a" * 64)}
    path = tmp_path / "codes" / "parts" / "plan.json"

    def write() -> None:
        write_codes(source, tmp_path / "codes", kinds, size=16)

    def read_it() -> None:
        plan = path.read_bytes()
        write()
        shutil.rmtree(tmp_path / "codes")
        path.parent.mkdir(parents=True)
        path.write_bytes(plan)

    write()
    plan = Codes(tmp_path / "codes").meta["plan"]
    shutil.rmtree(tmp_path / "codes")
    write_json_atomic(path, {**plan, "device": "cpu"}, checksum=True)
    hold(path, read_it)


def test_a_result(tmp_path):
    told: dict[str, Any] = {"protocol": "so: and so", "counts": {"samples": 7}, "seed": 0}
    told |= {"settings": {"a": {"b": 1}}, "features": [{"name": "n", "sha256": "0" * 64}]}
    for name in ("a.json", "b.json"):
        write_result(tmp_path / name, result("images", [("FD-n-00000000", 2.5), ("IS", 3)], **told))

    def read_it() -> None:
        read_result(tmp_path / "a.json")
        contents(str(tmp_path / "a.json"))
        for one, other in (("a.json", "b.json"), ("b.json", "a.json")):
            compare_results(tmp_path / one, tmp_path / other)

    hold(tmp_path / "a.json", read_it)


NETWORK = Network("n", "0" * 64, torch.nn.Identity(), lambda pixels: pixels)


def test_a_sweep(chain, tmp_path):
    pipeline = DigitPipeline.from_pretrained(chain.root / "model")
    plan = grid_of(pipeline, {"top_k": [1, 2]}, renderer=None, unconditional=False)
    path = tmp_path / "sweep.json"
    reference = Pictures("r", (), 7)

    def cells() -> Cells:
        return Cells(
            pipeline, plan, [NETWORK], reference, called="r", recall=False, num=9, written=path, content="c"
        )

    first = cells()
    for prior in plan.priors:
        values = {"FD-n": 2.0 + prior["top_k"], "IS-n": 3.0}
        first.rows.append({"setting": {**prior, **plan.renderers[0]}, "values": values})
    write_result(path, first.value())

    def read_it() -> None:
        found = cells()
        found.value()
        if found.rows:
            best(found.rows, NETWORK.metric("FD"))

    hold(path, read_it)


def test_a_curve_over_prefixes(chain, tmp_path):
    path = tmp_path / "prefix.json"
    models = {"m": DigitPipeline.from_pretrained(chain.root / "model")}
    source = open_images(chain.images)

    def curve() -> Curve:
        return Curve(models, source, [NETWORK], CPU, {"images": "x"}, path)

    from digit.evaluation.prefix import Point

    curve().add(Point("m", 2, 16, {"FD-n": 2.0}))

    def read_it() -> None:
        found = curve()
        found.left([2, 3])
        found.value()

    hold(path, read_it)


@pytest.fixture(scope="module")
def drawn(chain, tmp_path_factory) -> Path:
    """A folder of samples with its lists."""
    from digit.run.sample import sample

    out = tmp_path_factory.mktemp("drawn") / "out"
    sample(chain.root / "model", num=2, out=out, device="cpu")
    return out


def test_the_list_of_samples(drawn, tmp_path):
    shutil.copytree(drawn, tmp_path / "out")

    def read_it() -> None:
        listed_samples(tmp_path / "out")
        open_images(tmp_path / "out")
        contents(str(tmp_path / "out"))
        generated(str(tmp_path / "out"))

    hold(tmp_path / "out" / "samples.json", read_it)


def test_the_list_of_a_batch(chain, tmp_path):
    pipeline = DigitPipeline.from_pretrained(chain.root / "model")
    out = tmp_path / "out"
    how: dict[str, Any] = {"labels": [0, 1], "settings": {}, "codes": False, "batch": 2, "made_with": {}}
    out.mkdir()
    whole = draw(pipeline, [0, 1], out, **how)
    (path,) = (out / LISTS).glob("*.json")

    def read_it() -> None:
        if _is_drawn(out, path.stem, [0, 1]):
            rows = _listed(out, path.stem)["rows"]
            assert [row["seed"] for row in rows] == [0, 1] and len(_read_pixels(out, rows)) == 2
        else:
            _listed(out, path.stem)

    hold(path, read_it)
    told = read_json(path)
    write_json_atomic(path, {**told, "rows": [{**row, "seed": 7} for row in told["rows"]]}, checksum=True)
    assert draw(pipeline, [0, 1], out, **how)["samples"] == whole["samples"]


def test_the_mark_of_a_command(tmp_path):
    out, made_of = tmp_path / "out", {"model": {"a": 1}, "size": 3, "seeds": None}
    first = claim(out, "fit", made_of)
    with first.begun():
        (out / "file.txt").write_text("x")
    first.finish({"out": "x", "number": 1}, ["file.txt"])
    hold(out / ".digit.json", lambda: claim(out, "fit", made_of, may_change=("size",)))


SHORT = TrainConfig(steps=3, batch=6, log_every=1, optimizer=OptimizerConfig(warmup=1))


@pytest.fixture
def trained(tmp_path) -> Path:
    train(Plain(), data, SHORT, tmp_path / "run", device="cpu", progress=False)
    return tmp_path / "run"


def test_the_state_of_a_training(trained):
    longer = TrainConfig(steps=4, batch=6, log_every=1, optimizer=OptimizerConfig(warmup=1))
    kept = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    (state,) = paths(trained / "state")[-1:]

    def read_it() -> None:
        now = (state / STATE).read_bytes()
        contents(str(trained))
        try:
            train(Plain(), data, longer, trained, device="cpu", progress=False)
        finally:
            shutil.rmtree(trained)
            for path, there in kept.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(there)
            (state / STATE).write_bytes(now)

    hold(state / STATE, read_it)


def test_the_status_of_a_training(trained):
    def read_it() -> None:
        contents(str(trained))
        status = read_status(trained)
        assert status is not None and isinstance(status.finished, bool)

    hold(trained / "status.json", read_it)


def test_the_log_of_a_training(trained, monkeypatch):
    monkeypatch.setattr("digit.training.log.save_figure", lambda figure, path: figure)

    def read_it() -> None:
        contents(str(trained))
        draw_log(read(trained / "log.jsonl"), trained / "loss.png")

    first = "".join(json.dumps({"step": step, "loss": 2.0, "lr": 1.0}) + "\n" for step in (1, 2))
    (trained / "log.jsonl").write_text(first + json.dumps({"step": 3, "held_out_loss": 3.0}) + "\n")
    hold(trained / "log.jsonl", read_it, text=lambda value: f"{first}{json.dumps(value)}\n")
    for line in ("[" * 10**5, '{"step": 1' + "0" * 400 + "}", '{"step": 3, "loss": NaN}', "\x00", "}", '"'):
        (trained / "log.jsonl").write_text(first + line)
        read_it()


def test_the_note_beside_cached_states(tmp_path):
    how: dict[str, Any] = {"title": "states", "key": {"a": 1}, "cache": tmp_path, "limit": 1e9, "batch": 2}

    def read_it() -> None:
        cached_rows(lambda start: torch.zeros(2, 1, 3), (4, 1, 3), **how, where=CPU)

    read_it()
    (note,) = tmp_path.glob("*.json")
    kept = note.read_bytes()
    hold(note, read_it)
    assert note.read_bytes() == kept
