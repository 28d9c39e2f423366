"""`digit convert FILE` as people use it: every kind of file, what it leaves, and what bad files get."""

import json
import pickle
import zipfile

import huggingface_hub
import numpy as np
import pytest
import torch
from fake_hub import closed_port
from safetensors.torch import load_file, save_file
from tests_support import FIXTURES

from digit.pipeline import DigitPipeline
from digit.run.convert import convert_official
from digit.weights.artifact import describe, load
from digit.weights.foreign import read
from digit.weights.official import OFFICIAL

GOLDEN = load_file(FIXTURES / "tokenizer.safetensors")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The files a tokenizer and a VQGAN come from, as their authors would publish them."""
    folder = tmp_path_factory.mktemp("sources")
    state = read(FIXTURES / "stage2_ar.pt")["model"]

    def part(prefix):
        return {
            name.removeprefix(prefix): value.clone()
            for name, value in state.items()
            if name.startswith(prefix)
        }

    torch.save(part("pretrained_encoder."), folder / "encoder.pth")
    torch.save({"state_dict": part("vqgan.")}, folder / "vqgan.ckpt")
    save_file(part("vqgan."), folder / "vqgan.safetensors")
    return folder


CHECKPOINTS = {
    "stage1_uncond": "prior",
    "stage1_cls": "prior",
    "vq_only": "prior",
    "linear_probe": "probe",
    "stage2_ar": "renderer",
    "stage2_nar": "renderer_masked",
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints(name, run, tmp_path):
    code, out, _ = run("convert", FIXTURES / f"{name}.pt", "--out", tmp_path / "a", "--json")
    result = json.loads(out)
    assert code == 0
    assert result["kind"] == CHECKPOINTS[name] == describe(tmp_path / "a")["kind"]
    assert result["stored_as"] == "float16"  # the values of such files are float16's, so nothing is lost
    load(tmp_path / "a")


def test_a_file_is_known_by_its_content(run, tmp_path):
    odd = tmp_path / "km_16k.npy"
    odd.write_bytes((FIXTURES / "stage1_cls.pt").read_bytes())
    code, out, _ = run("convert", odd, "--out", tmp_path / "a", "--json")
    assert code == 0
    assert json.loads(out)["config"]["codes"] == 48
    assert describe(tmp_path / "a")["classes"][0] == "n01440764"


def test_the_table_of_kmeans_with_its_encoder(run, sources, tmp_path):
    call = ("convert", FIXTURES / "km.npy", "--encoder-heads", 3)
    code, _, _ = run(*call, "--encoder", sources / "encoder.pth", "--out", tmp_path / "a")
    assert code == 0
    tokenizer = load(tmp_path / "a", kind="tokenizer")
    assert torch.equal(tokenizer.encode(GOLDEN["images_u8"].float() / 255), GOLDEN["ids_npy"])
    assert describe(tmp_path / "a")["extra"]["size"] == 256  # then the encoder's own resize to 224
    code, _, _ = run("convert", sources / "encoder.pth", "--encoder-heads", 3, "--out", tmp_path / "e")
    assert code == 0
    assert describe(tmp_path / "e")["kind"] == "encoder"
    code, _, _ = run("convert", FIXTURES / "km.npy", "--encoder", tmp_path / "e", "--out", tmp_path / "b")
    assert code == 0
    official = load(tmp_path / "b", kind="tokenizer")
    rules = [module.encoder.config.position_rule for module in (tokenizer, official)]
    assert rules == ["reference", "timm"]


def test_tokenize_reads_pictures_as_the_reference_does(run, sources, tmp_path):
    """Short side to 256, centre crop, then the encoder's own bicubic resize to 224."""
    from PIL import Image

    from digit.data.codes import Codes

    call = ("convert", FIXTURES / "km.npy", "--encoder", sources / "encoder.pth", "--encoder-heads", 3)
    run(*call, "--out", tmp_path / "a")
    (tmp_path / "pictures").mkdir()
    for i, pixels in enumerate(GOLDEN["images_u8"].permute(0, 2, 3, 1).numpy()):
        Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / "pictures" / f"{i}.png")
    made = ("--images", tmp_path / "pictures", "--tokenizer", tmp_path / "a", "--views", 1)
    code, _, errors = run("tokenize", *made, "--out", tmp_path / "codes")
    assert code == 0, errors
    codes = torch.from_numpy(Codes(tmp_path / "codes").array("codes")[:, 0].astype(np.int64))
    assert torch.equal(codes, GOLDEN["ids_npy"])


@pytest.mark.parametrize("name", ["vqgan.ckpt", "vqgan.safetensors"])
def test_vqgan_files(name, run, sources, tmp_path):
    code, _, _ = run("convert", sources / name, "--out", tmp_path / "a")
    assert code == 0
    golden = load_file(FIXTURES / "vqgan.safetensors")
    assert torch.equal(load(tmp_path / "a").encode(golden["image_u8"].float() / 255), golden["ids"])


def test_a_whole_model_from_files(run, sources, tmp_path):
    """Every stage from its own file; the lineages fit, and pictures come out by the usual verbs."""
    heads = ("--encoder-heads", 3)
    tokenizer = ("--encoder", sources / "encoder.pth", *heads)
    together = ("--tokenizer", tmp_path / "tokenizer")
    for call in (
        (FIXTURES / "km.npy", *tokenizer, "--out", tmp_path / "tokenizer"),
        (sources / "vqgan.ckpt", "--out", tmp_path / "vqgan"),
        (FIXTURES / "stage1_cls.pt", *together, "--out", tmp_path / "prior"),
        (FIXTURES / "stage2_ar.pt", *together, "--vqgan", tmp_path / "vqgan", "--out", tmp_path / "renderer"),
        (FIXTURES / "stage2_nar.pt", *together, "--vqgan", tmp_path / "vqgan", "--out", tmp_path / "masked"),
    ):
        code, _, errors = run("convert", *call)
        assert code == 0, errors
    parts = ("prior", "renderer", "vqgan", "tokenizer")
    given = [word for name in parts for word in (f"--{name}", tmp_path / name)]
    out = ("--renderer-masked", tmp_path / "masked", "--out", tmp_path / "model")
    code, _, errors = run("compose", *given, *out)
    assert code == 0, errors
    drawn = DigitPipeline.from_pretrained(tmp_path / "model")(labels=[3], seeds=[5], renderer="masked")
    assert drawn.pixels.shape == (1, 3, 256, 256)
    # ... and a prior of another tokenizer is refused.
    code, _, _ = run("convert", FIXTURES / "stage1_cls.pt", *heads, "--out", tmp_path / "other")
    assert code == 0
    given[1] = tmp_path / "other"
    code, _, errors = run("compose", *given, "--out", tmp_path / "model2")
    assert code == 2
    assert "tokenizer" in errors


def test_unknown_heads_leave_the_lineage_open(run, tmp_path):
    code, out, errors = run("convert", FIXTURES / "stage1_cls.pt", "--out", tmp_path / "a", "--json")
    assert code == 0
    assert json.loads(out)["lineage"] == {}
    assert "--encoder-heads" in errors


class Canary:
    """Unpickling it makes a file: the file must never be there."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def hostile(tmp_path):
    canary, folder = tmp_path / "ran", tmp_path / "files"
    folder.mkdir()
    good = (FIXTURES / "stage1_cls.pt").read_bytes()
    torch.save({"model": Canary(canary), "cfg": {}}, folder / "zip.pt")
    torch.save({"state_dict": Canary(canary)}, folder / "old.ckpt", _use_new_zipfile_serialization=False)
    (folder / "plain.pth").write_bytes(pickle.dumps(Canary(canary)))
    np.save(folder / "objects.npy", np.array([Canary(canary)], dtype=object), allow_pickle=True)
    (folder / "pickle.npy").write_bytes(pickle.dumps(Canary(canary)))
    (folder / "pickle.safetensors").write_bytes(pickle.dumps(Canary(canary)))
    (folder / "half.pt").write_bytes(good[: len(good) // 2])
    (folder / "empty.pt").write_bytes(b"")
    (folder / "text.pt").write_text("not a model")
    (folder / "half.npy").write_bytes((FIXTURES / "km.npy").read_bytes()[:300])
    torch.save({"a": torch.zeros(2)}, folder / "other.pt")
    torch.save(3, folder / "number.pt")
    torch.save([torch.zeros(2)], folder / "list.pt")
    with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    np.save(folder / "vector.npy", np.zeros(4, np.float32))
    np.save(folder / "whole.npy", np.zeros((4, 24), np.int64))
    np.save(folder / "nan.npy", np.full((4, 24), np.nan, np.float32))
    (folder / "folder.pt").mkdir()
    return canary, [*sorted(folder.iterdir()), folder / "absent.pt"]


def test_hostile_files_are_one_sentence_and_run_nothing(run, sources, tmp_path):
    canary, files = hostile(tmp_path)
    for file in files:
        encoder = ("--encoder", sources / "encoder.pth", "--encoder-heads", 3) if ".npy" in file.name else ()
        code, out, errors = run("convert", file, "--out", tmp_path / "out", *encoder)
        assert code == 2, (file.name, errors)
        assert file.name in errors, file.name
        assert "Traceback" not in errors
        assert errors.startswith("digit: ")
        assert errors.count("\n") == 1, (file.name, errors)
        assert out == ""
        assert not (tmp_path / "out").exists(), file.name
        assert not canary.exists(), file.name


def test_an_artifact_is_not_overwritten(run, tmp_path):
    for options, words in (
        ((), ""),
        ((), "nothing is left to do"),
        (("--stored-as", "float32"), "already holds"),
    ):
        code, _, errors = run("convert", FIXTURES / "vq_only.pt", "--out", tmp_path / "a", *options)
        assert code == (2 if options else 0) and words in errors


def test_help_teaches(run):
    code, out, _ = run("convert", "--help")
    assert code == 0
    assert "km_*.npy" in out
    assert "official" in out


def test_what_was_made_is_a_table(run, tmp_path):
    code, out, _ = run("convert", FIXTURES / "linear_probe.pt", "--out", tmp_path / "a")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "probe of linear_probe.pt"
    assert any(line.startswith("made with the prior") for line in lines)
    assert f"saved: {tmp_path / 'a'}" in lines


@pytest.mark.parametrize(
    ("options", "unused"),
    [
        ("vq_only.pt --encoder lost.pth --image-size 64 --block -2", "--block, --encoder, --image-size are"),
        ("stage1_uncond.pt --part tokenizer --encoder-heads 3 --vqgan lost", "--vqgan is"),
        ("stage1_uncond.pt --part tokenizer --encoder-heads 3 --distance half", None),
        ("stage2_ar.pt --part vqgan --image-size 64", "--image-size is"),
        ("linear_probe.pt --encoder-heads 3", "--encoder-heads is"),
        ("linear_probe.pt --part prior --encoder-heads 3", None),
    ],
)
def test_options_that_are_not_of_the_file_are_said(run, tmp_path, options, unused):
    name, *others = options.split()
    code, _, err = run("convert", FIXTURES / name, *others, "--out", tmp_path / "a")
    assert code == 0, err
    assert (f"digit: {unused} not used: {FIXTURES / name} is converted to" in err) if unused else not err, err


@pytest.mark.parametrize("way", ["no network", "HF_HUB_OFFLINE"])
def test_offline_on_the_command_line(run, tmp_path, monkeypatch, way):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", way == "HF_HUB_OFFLINE")
    where = ("--cache", tmp_path / "cache", "--endpoint", f"http://127.0.0.1:{closed_port()}")
    code, out, err = run("convert", "official", "base_cond", "--out", tmp_path / "out", *where)
    assert (code, out) == (2, "") and err.startswith("digit: ") and err.count("\n") == 1
    for words in ("DAMO-NLP-SG/DiGIT", "base_8k_stage1_cls/", "--files"):
        assert words in err
    assert not (tmp_path / "out").exists()


def test_every_name_on_the_command_line_has_a_row(run):
    code, out, _ = run("convert", "official", "--help")
    assert code == 0 and ", ".join(OFFICIAL) in " ".join(out.split())
    code, _, err = run("convert", "official", "huge", "--out", "x")
    assert code == 2 and "huge" in err


def test_the_parts_are_a_table(monkeypatch, capsys, tmp_path):
    made = {
        "model": tmp_path / "out",
        "parameters": 1_000_000,
        "parts": {"prior": {"id": "a" * 64, "parameters": 900_000, "stored_as": "float16"}},
        "published": {"FID": 4.62, "IS": 146.2, "where": "table 2"},
        "sample": f"digit sample {tmp_path / 'out'}",
    }
    monkeypatch.setattr("digit.weights.official_model.convert_model", lambda *_, **__: made)
    assert convert_official("base_cond", tmp_path / "out") == made
    lines = capsys.readouterr().out.splitlines()
    assert "base_cond" in lines[0] and "FID 4.62" in lines[0]
    row = next(line for line in lines if line.startswith("prior"))
    assert "900,000" in row and "float16" in row and "a" * 12 in row
    assert lines[-1] == f"saved: {tmp_path / 'out'}"
