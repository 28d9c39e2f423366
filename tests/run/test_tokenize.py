"""`digit tokenize`: codes as the artifacts give them, what it says, and what a dry run says before."""

import json

import numpy as np
import pytest
import torch

from digit.data.codes import Codes
from digit.run.tokenize import open_kinds
from digit.weights.artifact import load, save


def files(folder):
    """Names and times of change of all files below a folder."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_tokenize_gives_what_the_artifact_gives(chain, run):
    codes = Codes(chain.root / "codes")
    assert codes.array("codes").shape == (48, 2, 16)
    assert codes.array("vq_codes").shape == (48, 2, 16)
    made_by = ("--tokenizer", chain.root / "tokenizer", "--vqgan", chain.root / "vqgan")
    code, out, _ = run(
        "tokenize", "--images", chain.images, "--out", chain.root / "codes", *made_by, "--json"
    )
    assert code == 0  # done already: the same command returns at once
    assert json.loads(out)["images"] == 48


def test_what_digit_drew_is_a_set_without_its_grid_and_strips(chain, run, tmp_path):
    drawn, model = tmp_path / "drawn", chain.root / "model"
    assert run("sample", model, "--num", 4, "--out", drawn)[0] == 0
    completed = tmp_path / "completed"
    assert run("sample", model, "--num", 2, "--prefix-from", drawn, "--prefix", 3, "--out", completed)[0] == 0
    vqgan = ("--vqgan", chain.root / "vqgan", "--views", 1)
    for folder, count, left_out in ((drawn, 4, "grid.png"), (completed, 8, "grid.png and 4 others")):
        codes = tmp_path / f"codes of {folder.name}"
        code, _, err = run("tokenize", "--images", folder, "--out", codes, *vqgan)
        assert code == 0 and len(Codes(codes)) == count
        assert f"{left_out} (a sheet or plot of digit's, no sample)" in err


def test_the_same_chain_from_a_folder_of_odd_pictures(chain, run, tmp_path):
    """A folder as people have them: formats mixed, one file broken, one that is no picture."""
    from odd_pictures import broken, readable

    folder = tmp_path / "odd"
    folder.mkdir()
    for name, data in {**readable(), **broken()}.items():
        (folder / f"{name.replace(' ', '-')}.png").write_bytes(data)
    good = len(readable())
    options = ("--out", tmp_path / "codes", "--vqgan", chain.root / "vqgan", "--json")
    code, out, err = run("tokenize", "--images", folder, *options)
    assert code == 0, err
    result = json.loads(out)
    assert result["images"] == good
    assert result["skipped"] == len(broken())
    codes = Codes(tmp_path / "codes")
    assert codes.labels is None
    assert np.asarray(codes.array("vq_codes")).max() < 16


def test_codes_to_come(chain, run, json_of, tmp_path):
    root = chain.root
    made_by = ("--tokenizer", root / "tokenizer", "--vqgan", root / "vqgan", "--device", "cpu", "--json")
    call = ("tokenize", "--images", chain.images, *made_by, "--dry-run")
    before = files(root)
    code, out, err = run(*call, "--out", tmp_path / "codes", "--views", 3)
    assert code == 0, err
    told = json_of(out)
    assert told["inputs"]["pictures"] == 48 and told["state"] == "starts anew" and told["parts"] == 1
    assert set(told["codes_gib"]) == {"codes", "vq_codes"}
    assert told["codes_gib"]["vq_codes"] * 2**30 == 48 * 3 * 16 * 2
    assert "is finished" in run(*call, "--out", root / "codes")[1]
    assert not list(tmp_path.iterdir()) and files(root) == before


def test_what_was_written_is_a_table(chain, run, tmp_path):
    made_by = ("--tokenizer", chain.root / "tokenizer", "--vqgan", chain.root / "vqgan", "--device", "cpu")
    code, out, err = run(
        "tokenize", "--images", chain.images, *made_by, "--num", 6, "--out", tmp_path / "codes"
    )
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == "6 pictures at 16 px, 2 views of each"
    assert any(line.startswith("VQ codes ") for line in lines)
    assert f"saved: {tmp_path / 'codes'}" in lines
    assert Codes(tmp_path / "codes").labels.tolist() == [0, 0, 1, 1, 2, 2]  # spread over the set, by class
    code, out, _ = run("tokenize", "--images", chain.images, *made_by, "--dry-run", "--out", tmp_path / "x")
    assert code == 0 and "starts anew" in out and not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("which", "asked", "side"),
    [
        (("tokenizer",), None, 24),
        (("tokenizer", "vqgan"), None, 16),
        (("vqgan",), None, 16),
        (("tokenizer",), 32, 32),
    ],
)
def test_the_side_is_the_one_asked_for_or_the_vqgans_or_the_tokenizers(
    chain, tmp_path, capsys, which, asked, side
):
    save(load(chain.root / "tokenizer"), tmp_path / "tokenizer", extra={"size": 24})
    paths = {"tokenizer": tmp_path / "tokenizer", "vqgan": chain.root / "vqgan"}
    given = {name: paths[name] if name in which else None for name in paths}
    kinds, lengths, found = open_kinds(**given, size=asked, device=torch.device("cpu"))
    assert found == side
    assert set(kinds) == set(lengths) == {{"tokenizer": "codes", "vqgan": "vq_codes"}[name] for name in which}
    warned = f"fitted on pictures of 24 px, these are read at {side} px" in capsys.readouterr().err
    assert warned == ("tokenizer" in which and side != 24)


def test_a_tokenizer_saved_without_a_size_reads_pictures_at_its_encoders(chain, tmp_path):
    save(load(chain.root / "tokenizer"), tmp_path / "t")
    assert open_kinds(tmp_path / "t", None, size=None, device=torch.device("cpu"))[2] == 16


def test_bytes_give_the_codes_of_the_artifact(chain):
    pixels = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    kinds, lengths, _ = open_kinds(
        chain.root / "tokenizer", chain.root / "vqgan", size=None, device=torch.device("cpu")
    )
    for name, stage in (("codes", "tokenizer"), ("vq_codes", "vqgan")):
        codes = kinds[name].encode(pixels)
        assert codes.shape == (3, lengths[name])
        with torch.no_grad():
            assert torch.equal(codes, load(chain.root / stage).encode(pixels / 255))
        assert kinds[name].artifact == load(chain.root / stage).artifact["id"]
