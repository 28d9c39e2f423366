"""docs/python.md: its programs are short, and run with the pictures and sizes of a test."""

import re
import zipfile
from pathlib import Path

import pytest
import torch

import digit
from digit.features import Encoder, encoder_config

PAGE = (Path(__file__).parents[1] / "docs" / "python.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


class MyTokenizer:
    """The mean brightness of each quarter of a picture, in 16 steps."""

    def encode(self, pixels):
        grey = pixels.float().mean(1) / (255 if pixels.dtype == torch.uint8 else 1)
        return (torch.nn.functional.adaptive_avg_pool2d(grey, 2).flatten(1) * 15).long()


@pytest.fixture(scope="module")
def desk(chain, tmp_path_factory):
    """A folder with photos, where the programs run one after another."""
    folder = tmp_path_factory.mktemp("desk")
    with zipfile.ZipFile(chain.images) as archive:
        archive.extractall(folder / "photos")
        first = archive.read(archive.namelist()[0])
    (folder / "photos" / "blue" / "cat.jpg").write_bytes(first)
    return folder


def smaller(program, chain):
    """The program with an encoder, pictures and steps that a test has."""
    shape = chain.fitted["encoder_arguments"]
    encoder = Encoder(
        encoder_config("vit_tiny_patch16_224", 16, arguments=shape), chain.fitted["encoder_weights"]
    )
    for said, here in (
        ('encoder="dinov2-b-reg", clusters=8192', "encoder=encoder, clusters=8, per_cluster=64"),
        ("photos/cat.jpg", "photos/blue/cat.jpg"),
        ("steps=400, batch=64", "steps=3, batch=8"),
        ("warmup=40", "warmup=1"),
        ('"width": 256, "layers": 4, "heads": 4', '"width": 16, "layers": 1, "heads": 2'),
        ("size=224", "size=16"),
        ("from_pretrained()", "from_pretrained(model)"),
        ("prefix=32", "prefix=5"),
    ):
        program = program.replace(said, here)
    return program, {"encoder": encoder, "MyTokenizer": MyTokenizer, "model": chain.root / "model"}


@pytest.mark.parametrize("number", range(4))
def test_a_program_runs(number, desk, chain, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    program, names = smaller(PROGRAMS[number], chain)
    exec(compile(program, f"python.md, program {number}", "exec"), names)
    said = capsys.readouterr().out
    if number == 0:
        assert names["codes"].shape == (1, 16) and "Tokenizer(vit_tiny_patch16_224 at 16 px, 8 codes" in said
        assert digit.load(desk / "runs" / "tokenizer").config.codes == 8
    if number == 1:
        assert "Prior(16 codes of 8, 3 classes" in said
    if number == 2:
        assert 0 <= names["found"]["token change, noise 20 dB"] <= 1 and "MyTokenizer object" in said
    if number == 3:
        assert len(names["completed"].images) == 4 and names["codes"].shape == (1, 16)
        assert names["pictures"].shape == (1, 3, 16, 16)


def test_the_programs_are_short():
    assert len(PROGRAMS) == 5
    for program in PROGRAMS:
        assert len([line for line in program.splitlines() if line.strip()]) <= 8
