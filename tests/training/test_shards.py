"""Files of parts: written by several, read whole, in part, and by torch's own reader."""

import pytest
import torch
import torch.distributed.checkpoint as dcp

from digit.errors import DigitError
from digit.training.shards import Piece, Tensors, fill, write

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
    with pytest.raises(DigitError, match="lacks a part of matrix"):
        Tensors([files[0], files[2]])["matrix"]
    files[1].write_bytes(files[1].read_bytes()[:40])
    with pytest.raises(DigitError, match="not a whole safetensors file"):
        Tensors(files)


def test_another_shape_or_name(tmp_path):
    tensors = Tensors(write_all(tmp_path, 2))
    with pytest.raises(ValueError, match="has shape"):
        fill(torch.zeros(7, 6), tensors, "matrix")
    with pytest.raises(KeyError):
        fill(torch.zeros(7, 6), tensors, "none")
