"""`digit push`: what it says, and that the model is one to all verbs afterwards."""

import io
import json

import pytest
from fake_hub import fake_hub
from PIL import Image

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # see tests/weights/test_push.py


def test_a_pushed_model_is_one_to_all_verbs(run, chain, tmp_path, monkeypatch):
    with fake_hub() as hub:
        hub.be_the_hub(monkeypatch, tmp_path / "cache")
        code, out, said = run("push", chain.root / "model", "me/model", "--revision", "v1", "--private")
        assert code == 0, said
        assert "drawing 16 pictures for the card" in said
        assert out.startswith(f"uploaded: {hub.endpoint}/me/model/commit/") and out.count("\n") == 1
        assert Image.open(io.BytesIO(hub.files["me/model@v1/grid.png"])).size == (64, 64)
        code, out, said = run("info", "me/model@v1", "--json")
        assert code == 0, said
        assert json.loads(out)["classes"] == ["blue", "green", "red"]
        draw = ("--num", 2, "--device", "cpu", "--json")
        for name, more, out in (("me/model", ("--revision", "v1"), "a"), ("me/model@v1", (), "b")):
            code, _, said = run("sample", name, *more, *draw, "--out", tmp_path / out)
            assert code == 0, said
        assert (tmp_path / "a/000001.png").read_bytes() == (tmp_path / "b/000001.png").read_bytes()
        hub.writer = "another"
        code, out, said = run("push", chain.root / "model", "me/model", "--json")
        assert (code, out) == (2, "") and "the hub refuses me/model (401)" in said.splitlines()[-1]
