"""`digit tokenize`: codes as the artifacts give them, what it says, and what a dry run says before."""

import json

import numpy as np

from digit.data.codes import Codes


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
