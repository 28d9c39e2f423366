"""Files of parts: written by several, read whole, in part, and by torch's own reader."""

import json

import pytest
import safetensors
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file

from digit.errors import DigitError
from digit.training.shards import PLACES, Piece, Tensors, fill, write

WHOLE = {
    "matrix": torch.arange(35.0).view(7, 5),
    "short": torch.arange(2.0),
    "step": torch.tensor(3.0),
    "counter": torch.tensor([4]),
    "half": torch.arange(6).bfloat16().view(3, 2),
}


def parts(tensor, count):
    """Split along the first dimension as FSDP2 does: the last processes may have less, or nothing."""
    pieces, begin = list(tensor.chunk(count)), 0
    pieces += [tensor[:0]] * (count - len(pieces))
    for part in pieces:
        yield Piece(part, (min(begin, len(tensor)), *[0] * (tensor.ndim - 1)))
        begin += len(part)


def write_all(folder, count):
    files = []
    for number in range(count):
        pieces = {
            name: list(parts(tensor, count))[number]
            for name, tensor in WHOLE.items()
            if name in ("matrix", "short", "half")
        }
        if number == 0:
            pieces |= {name: Piece(WHOLE[name], (0,) * WHOLE[name].ndim) for name in ("step", "counter")}
        files.append(folder / f"model-{number + 1:05d}-of-{count:05d}.safetensors")
        write(files[-1], pieces)
    return files


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_whole_again(tmp_path, count):
    tensors = Tensors(write_all(tmp_path, count))
    assert set(tensors) == set(WHOLE)
    for name, tensor in WHOLE.items():
        assert torch.equal(tensors[name], tensor) and tensors[name].dtype == tensor.dtype
        target = torch.zeros_like(tensor)
        fill(target, tensors, name)
        assert torch.equal(target, tensor)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("others", [1, 2, 3])
def test_other_parts_than_were_written(tmp_path, count, others):
    tensors = Tensors(write_all(tmp_path, count))
    for part in parts(WHOLE["matrix"], others):
        assert torch.equal(tensors.read("matrix", part.begins, part.tensor.shape), part.tensor)


def test_torchs_reader_reads_them(tmp_path):
    write_all(tmp_path, 3)
    targets = {name: torch.zeros_like(tensor) for name, tensor in WHOLE.items()}
    with pytest.warns(UserWarning, match="load in a single process"):
        dcp.load(targets, storage_reader=dcp.HuggingFaceStorageReader(str(tmp_path)), no_dist=True)
    assert all(torch.equal(targets[name], tensor) for name, tensor in WHOLE.items())


def test_a_missing_part_and_a_damaged_file(tmp_path):
    files = write_all(tmp_path, 3)
    with pytest.raises(DigitError, match=r"lacks a part of (half|matrix): take"):  # when they are opened
        Tensors([files[0], files[2]])
    files[1].write_bytes(files[1].read_bytes()[:40])
    with pytest.raises(DigitError, match="not a whole safetensors file"):
        Tensors(files)


def test_another_shape_or_name(tmp_path):
    tensors = Tensors(write_all(tmp_path, 2))
    with pytest.raises(ValueError, match="has shape"):
        fill(torch.zeros(7, 6), tensors, "matrix")
    with pytest.raises(KeyError):
        fill(torch.zeros(7, 6), tensors, "none")


STRANGE = ["x", 7, [], {"matrix": 1}, {"matrix": {}}, {"matrix": {"saved_offsets": "00"}}]
OFFSETS = [[], [0], [0, 0, 0], [-1, 0], [0, 2**62], [1.5, 0], [10**12, 10**12], [0, 10**7], [5, 0], [4, 1]]
STRANGE += [{"matrix": {"saved_offsets": begins}} for begins in OFFSETS]


def with_places(path, places):
    with safetensors.safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata={PLACES: json.dumps(places)})


@pytest.mark.parametrize("places", STRANGE, ids=json.dumps)
def test_places_of_anybodys_are_refused_before_anything_is_set_aside(tmp_path, places):
    files = write_all(tmp_path, 2)
    with_places(files[1], places)
    with pytest.raises(DigitError, match="take an earlier state"):
        Tensors(files)


def test_what_says_of_no_place_begins_at_0(tmp_path):
    files = write_all(tmp_path, 2)
    with_places(files[1], {})
    assert Tensors(files).shape("matrix") == (4, 5) and torch.equal(
        Tensors(files[:1])["matrix"], WHOLE["matrix"][:4]
    )
