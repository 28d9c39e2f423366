"""`digit sample --gif`: codes arrive, then pictures, which are those of the files."""

import numpy as np
import torch
from PIL import Image

from digit.data.preprocess import preprocess
from digit.run.grid import grid


def test_codes_and_pictures_arrive(run, chain, tmp_path, saved_in):
    out, where = tmp_path / "out", ("--device", "cpu", "--out", tmp_path / "out")
    code, said, error = run("sample", chain.root / "model", "--num", 3, "--gif", *where)
    assert code == 0, error
    assert saved_in(said) == ["grid.png", "drawing.gif", "samples.json"]
    with Image.open(out / "drawing.gif") as film:
        assert 8 <= film.n_frames <= 49 and film.info["loop"] == 0
        first = np.asarray(film.convert("RGB"), int)
        film.seek(film.n_frames - 1)
        last = np.asarray(film.convert("RGB"), int)
        assert film.info["duration"] >= 2500 and first.shape == last.shape
    pixels = torch.cat([preprocess(out / f"{i:06d}.png", size=16) for i in range(3)])
    drawn = np.asarray(grid(pixels), int)
    assert np.abs(last - drawn).mean() < 8 < np.abs(first - drawn).mean()  # 256 colours each
    assert len(preprocess(out, size=16)) == 3  # the film is no picture of the set
    code, _, error = run("sample", chain.root / "model", "--num", 3, "--gif", *where)
    assert code == 0 and "nothing is left to do" in error


def test_completions_have_none(run, chain, tmp_path):
    code, _, error = run("sample", chain.root / "model", "--gif", "--prefix-from", tmp_path, "--prefix", 3)
    assert code == 2 and "--gif shows pictures that are drawn from nothing" in error
