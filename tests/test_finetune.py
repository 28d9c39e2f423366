"""experiments/finetune.py in small: both trainings, losses and pictures; it runs the page's commands."""

import re
from pathlib import Path

import finetune

from digit.files import read_json

PAGE = (Path(__file__).parents[1] / "docs" / "finetune.md").read_text(encoding="utf-8")


def test_the_script_runs_what_the_page_says(chain, tmp_path, capfd):
    out = tmp_path / "out"
    line = ["--images", chain.images, "--model", str(chain.root / "model"), "--out", str(out), "--num", "16"]
    line += ["--held-out-num", "8", "--steps", "4", "--batch", "8", "--evaluate-every", "2", "--warmup", "1"]
    assert finetune.main([*line, "--draw", "3"]) == 0, capfd.readouterr().err[-2000:]
    record = read_json(out / "finetune.json")
    for name in ("losses", "losses from new weights"):
        assert list(record[name]) == ["2", "4"] and all(0 < loss < 10 for loss in record[name].values())
    assert record["made_by"]["command"].startswith("python experiments/finetune.py")
    config = [read_json(out / name / "config.json") for name in ("prior", "prior-new")]
    assert config[0]["config"] == config[1]["config"]
    assert "prior to start from" in config[0]["lineage"] and "prior to start from" not in config[1]["lineage"]
    for name in ("drawn", "drawn-new"):
        assert (out / name / "grid.png").exists()
    said = re.findall(r"^\$ digit (.*)$", capfd.readouterr().out, re.MULTILINE)
    for verb in ("tokenize", "train prior", "compose", "sample"):
        assert any(each.startswith(verb) for each in said) and f"digit {verb} " in PAGE


def test_the_page_gives_the_settings_of_the_script():
    command = re.search(r"digit train prior (.*?)\n```", PAGE, re.DOTALL)
    assert command is not None
    for option, value in (
        ("steps", 60),
        ("batch", 16),
        ("lr", "3e-4"),
        ("warmup", 10),
        ("evaluate-every", 20),
    ):
        assert f"--{option} {value}" in command[1]
