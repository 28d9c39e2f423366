"""`digit convert official`: its names, what it prints, and what it says without a network."""

import huggingface_hub
import pytest
from fake_hub import closed_port

from digit.run.convert_official import convert_official
from digit.weights.official import OFFICIAL


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
