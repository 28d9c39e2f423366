"""The weights of the lowest held-out loss stay in best/, whether a run was stopped or not."""

import json

import pytest
import torch

from digit.files import read_json
from digit.weights.artifact import load

RISES = ("--lr", 0.3, "--schedule", "constant", "--warmup", 1, "--batch", 8, "--device", "cpu")
SMALL = ("--width", 16, "--layers", 1, "--heads", 2)


def losses(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["held_out_loss"] for line in lines if "held_out_loss" in line}


@pytest.mark.parametrize("stage", [["prior"], ["renderer", "--masked"]])
def test_the_best_weights_are_those_of_their_update(chain, run, tmp_path, stage):
    codes = chain.root / "codes"
    line = ("train", *stage, "--codes", codes, "--held-out", codes, *RISES, *SMALL, "--out")
    code, out, err = run(*line, tmp_path / "whole", "--steps", 8, "--evaluate-every", 1)
    assert code == 0, err
    found = losses(tmp_path / "whole")
    step = min(found, key=found.__getitem__)
    assert 0 < step < 8, "this case should not end with its best"
    assert f"lowest held-out loss, {found[step]:.4f}, are those of update {step}" in err
    assert run(*line, tmp_path / "short", "--steps", step)[0] == 0
    best, short = load(tmp_path / "whole" / "best"), load(tmp_path / "short")
    for name, tensor in short.state_dict().items():
        assert torch.equal(tensor, best.state_dict()[name]), name
    assert not (tmp_path / "short" / "best").exists()  # one measurement chooses nothing
    out = run("info", tmp_path / "whole")[1]
    assert f"{found[step]:.4f} at update {step}, in best/" in out
    half = (*line, tmp_path / "two", "--evaluate-every", 1, "--steps")
    assert run(*half, 4)[0] == 0 and run(*half, 8)[0] == 0
    told = [read_json(tmp_path / name / "best" / "config.json") for name in ("two", "whole")]
    assert told[0]["id"] == told[1]["id"] and told[0]["extra"] == told[1]["extra"]
    record = json.loads(run(*half, 8, "--json")[1])
    assert record["best"] == {"step": step, "held_out_loss": found[step]}


def test_a_best_of_other_pictures_or_damaged_does_not_count(chain, run, tmp_path):
    """Losses on other pictures do not compare: the first of the new ones is the best so far."""
    codes = chain.root / "codes"
    line = (
        "train",
        "prior",
        "--codes",
        codes,
        *RISES,
        *SMALL,
        "--out",
        tmp_path / "r",
        "--evaluate-every",
        1,
    )
    assert run(*line, "--held-out", codes, "--steps", 1)[0] == 0
    config = tmp_path / "r" / "best" / "config.json"
    config.write_text(config.read_text()[:40])
    assert run(*line, "--held-out", codes, "--steps", 2)[0] == 0
    assert read_json(config)["extra"]["best"]["step"] == 2
    from digit.run.tokenize import tokenize

    half = {"tokenizer": chain.root / "tokenizer", "vqgan": chain.root / "vqgan", "num": 12, "device": "cpu"}
    tokenize(chain.images, tmp_path / "half", **half)
    assert run(*line, "--held-out", tmp_path / "half", "--steps", 3)[0] == 0
    assert read_json(config)["extra"]["best"]["step"] == 3
