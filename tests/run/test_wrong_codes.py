"""Trainings that read wrong codes on purpose: which codes, by whose centroids, and what says so."""

import json

import pytest
import torch

from digit.data.codes import Codes
from digit.data.wrong_codes import neighbours
from digit.errors import DigitError, LineageError
from digit.run.wrong_codes import wrong_codes_of
from digit.weights.artifact import describe, load, save


def test_near_codes_are_those_of_the_tokenizer(chain):
    codes, tokenizer = Codes(chain.root / "codes"), load(chain.root / "tokenizer")
    found = wrong_codes_of(codes, chain.root / "tokenizer", 0.3)
    assert found.rate == 0.3 and torch.equal(found.near, neighbours(tokenizer.centroids))
    assert found.near.shape == (8, 7)
    assert wrong_codes_of(codes, None, 0.0) is None


def test_what_is_near_is_asked_for_and_of_the_right_tokenizer(chain, tmp_path):
    codes, tokenizer = Codes(chain.root / "codes"), load(chain.root / "tokenizer")
    with pytest.raises(DigitError, match=r"wrong_codes 0.3 needs to know .* give tokenizer, the artifact"):
        wrong_codes_of(codes, None, 0.3)
    tokenizer.centroids += 1
    save(tokenizer, tmp_path / "other")
    with pytest.raises(LineageError, match="tokenizer"):
        wrong_codes_of(codes, tmp_path / "other", 0.3)
    with pytest.raises(DigitError, match="is a vqgan"):
        wrong_codes_of(codes, chain.root / "vqgan", 0.3)


@pytest.mark.parametrize("kind", [(), ("--masked",), ("--flow",)], ids=["autoregressive", "masked", "flow"])
def test_every_renderer_trains_on_them(chain, run, tmp_path, kind):
    out, shape = tmp_path / "r", ("--width", 16, "--layers", 1, "--heads", 2, "--steps", 2, "--batch", 8)
    command = ("train", "renderer", "--codes", chain.root / "codes", "--out", out, *kind, *shape)
    command += ("--images", chain.images) if "--flow" in kind else ()
    code, _, err = run(*command, "--wrong-codes", 0.9)
    assert code == 2 and "give --tokenizer" in err and not out.exists()
    wrong = ("--wrong-codes", 0.9, "--tokenizer", chain.root / "tokenizer", "--device", "cpu")
    code, _, err = run(*command, *wrong)
    assert code == 0, err
    assert describe(out)["extra"] == {"wrong_codes": 0.9}
    assert json.loads((out / ".digit.json").read_text())["made_of"]["wrong_codes"] == 0.9
    code, _, _ = run(*command[:5], tmp_path / "plain", *command[6:], "--device", "cpu")
    assert code == 0 and describe(tmp_path / "plain")["extra"] == {}
    weights = [(folder / "model.safetensors").read_bytes() for folder in (out, tmp_path / "plain")]
    assert weights[0] != weights[1]
