"""Which codes `digit tokenize` writes, and at which size pictures are read for them."""

import pytest
import torch

from digit.run.streams import open_streams
from digit.weights.artifact import load, save


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
    streams, lengths, found = open_streams(**given, size=asked, device=torch.device("cpu"))
    assert found == side
    assert (
        set(streams) == set(lengths) == {{"tokenizer": "codes", "vqgan": "vq_codes"}[name] for name in which}
    )
    warned = f"fitted on pictures of 24 px, these are read at {side} px" in capsys.readouterr().err
    assert warned == ("tokenizer" in which and side != 24)


def test_a_tokenizer_saved_without_a_size_reads_pictures_at_its_encoders(chain, tmp_path):
    save(load(chain.root / "tokenizer"), tmp_path / "t")
    assert open_streams(tmp_path / "t", None, size=None, device=torch.device("cpu"))[2] == 16


def test_bytes_give_the_codes_of_the_artifact(chain):
    pixels = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    streams, lengths, _ = open_streams(
        chain.root / "tokenizer", chain.root / "vqgan", size=None, device=torch.device("cpu")
    )
    for name, stage in (("codes", "tokenizer"), ("vq_codes", "vqgan")):
        codes = streams[name].encode(pixels)
        assert codes.shape == (3, lengths[name])
        with torch.no_grad():
            assert torch.equal(codes, load(chain.root / stage).encode(pixels / 255))
        assert streams[name].artifact == load(chain.root / stage).artifact["id"]
