"""digit.weights.foreign: every format by its content, nothing run, one sentence for what is damaged."""

import argparse
import io
import os
import pickle
import random
import sys
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save as to_safetensors

from digit.errors import DigitError
from digit.weights.foreign import Inert, read

FIXTURES = Path(__file__).parents[1] / "fixtures"
CALLBACK = "callbacks.model_checkpoint"


def torch_bytes(content: object, *, zipped: bool = True, protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    return buffer.getvalue()


def numpy_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def content() -> dict[str, object]:
    weights = {"a": torch.randn(3, 4), "b": torch.arange(5), "h": torch.randn(2).half()}
    return {"model": OrderedDict(weights), "epoch": 3, "lr": [0.1, None, "x", (True, b"u")]}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["a.pt", "a.pth.tar", "a.npy", "a.safetensors", "a"])
def test_torch_files_whatever_they_are_called(tmp_path, zipped, name):
    saved = content()
    (tmp_path / name).write_bytes(torch_bytes(saved, zipped=zipped))
    got = read(tmp_path / name)
    assert got["epoch"] == 3 and got["lr"] == saved["lr"]
    assert list(got["model"]) == ["a", "b", "h"]
    for key, tensor in saved["model"].items():
        assert got["model"][key].dtype == tensor.dtype and torch.equal(got["model"][key], tensor)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4", "<i8", "u1", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numpy_files(tmp_path, dtype, order):
    array = np.asarray(np.random.default_rng(0).integers(0, 2, (3, 5, 2)), dtype=dtype, order=order)
    (tmp_path / "km.pt").write_bytes(numpy_bytes(array))
    got = read(tmp_path / "km.pt")
    assert got.is_contiguous() and got.shape == (3, 5, 2)
    assert np.array_equal(got.numpy(), array) and got.numpy().dtype == array.dtype.newbyteorder("=")
    got.fill_(1)  # a copy: neither read-only nor tied to the file
    assert np.array_equal(np.load(tmp_path / "km.pt"), array)


def test_numpy_files_without_rows_or_columns(tmp_path):
    for shape in ((), (0, 3)):
        (tmp_path / "a.npy").write_bytes(numpy_bytes(np.ones(shape, np.float32)))
        assert read(tmp_path / "a.npy").shape == shape


def test_safetensors_files(tmp_path):
    tensors = {"a": torch.randn(3, 4), "b": torch.randn(2).bfloat16()}
    (tmp_path / "a.pt").write_bytes(to_safetensors(tensors))
    got = read(tmp_path / "a.pt")
    assert got.keys() == tensors.keys() and all(torch.equal(got[key], tensors[key]) for key in got)


@pytest.mark.parametrize("name", ["stage1_uncond.pt", "stage2_nar.pt", "linear_probe.pt"])
def test_checkpoints_of_the_reference(name):
    got = read(FIXTURES / name)
    assert got["cfg"]["model"]["_name"] and all(torch.is_tensor(value) for value in got["model"].values())


@pytest.fixture
def lightning(monkeypatch):
    """Modules that exist while a file is written, and not when it is read."""
    classes = []
    for module in ("pytorch_lightning", "lightning.pytorch"):
        parts = f"{module}.{CALLBACK}".split(".")
        for i in range(1, len(parts) + 1):
            monkeypatch.setitem(sys.modules, ".".join(parts[:i]), ModuleType(".".join(parts[:i])))
        kind = type("ModelCheckpoint", (), {"__module__": f"{module}.{CALLBACK}"})
        sys.modules[f"{module}.{CALLBACK}"].ModelCheckpoint = kind
        classes.append(kind)
    yield classes
    monkeypatch.undo()


@pytest.mark.parametrize("zipped", [True, False])
def test_known_objects_become_inert(tmp_path, lightning, monkeypatch, zipped):
    one, other = lightning
    callback = other()
    callback.best = 0.5
    saved = {
        "state_dict": {"w": torch.ones(2)},
        "callbacks": {one: {"best": np.float64(1.5)}, other: {"best": np.float32(2)}},
        "callback": callback,
        "args": argparse.Namespace(lr=0.1, shape=torch.ones(2), read="x"),
    }
    path = tmp_path / "last.ckpt"
    path.write_bytes(torch_bytes(saved, zipped=zipped))
    allowed = set(map(str, torch.serialization.get_safe_globals()))
    monkeypatch.undo()
    got = read(path)
    assert not any("lightning" in module for module in sys.modules)
    assert set(map(str, torch.serialization.get_safe_globals())) == allowed, "the list is for that call only"
    assert torch.equal(got["state_dict"]["w"], torch.ones(2))
    assert [kind.__name__ for kind in got["callbacks"]] == ["ModelCheckpoint"] * 2
    for kind, value in got["callbacks"].items():
        assert issubclass(kind, Inert) and isinstance(value["best"], Inert)
    assert isinstance(got["callback"], Inert) and got["callback"].state == {"best": 0.5}
    assert isinstance(got["args"], Inert) and got["args"].state["lr"] == 0.1
    assert not hasattr(got["args"], "lr"), "what a file says does not become an attribute"


def test_numpy_1_files_name_the_same_scalar_otherwise(tmp_path):
    new = torch_bytes({"best": np.float64(1.5)}, zipped=False)
    old = new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert old != new
    (tmp_path / "a.pt").write_bytes(old)
    assert isinstance(read(tmp_path / "a.pt")["best"], Inert)


def touch(path: str) -> None:
    Path(path).touch()


class Canary:
    def __init__(self, function, argument):
        self.call = function, (argument,)

    def __reduce__(self):
        return self.call


def canaries(path: Path) -> dict[str, Canary]:
    """Objects that make a file as they are unpickled, by the name that they need for it."""
    return {
        "posix.system": Canary(os.system, f"touch {path}"),
        "builtins.eval": Canary(eval, f"open({str(path)!r}, 'w').close()"),
        f"{__name__}.touch": Canary(touch, str(path)),
    }


@pytest.mark.parametrize("kind", range(3))
def test_nothing_is_ever_run(tmp_path, kind):
    proof = tmp_path / "it-ran"
    name, canary = list(canaries(proof).items())[kind]
    pickle.loads(pickle.dumps(canary))
    assert proof.exists(), "the canary must be able to sing"
    proof.unlink()
    holding = {"model": {"w": torch.ones(2)}, "x": canary}
    saved = {f"torch-{zipped}": torch_bytes(holding, zipped=zipped) for zipped in (True, False)}
    saved["torch-protocol-4"] = torch_bytes(holding, protocol=4)
    saved |= {f"pickle-{protocol}": pickle.dumps(holding, protocol) for protocol in range(6)}
    saved |= {f"bare-{protocol}": pickle.dumps(canary, protocol) for protocol in range(6)}
    saved["numpy"] = numpy_bytes(np.array([canary, 1], dtype=object))
    saved["numpy-fields"] = numpy_bytes(np.array([(1, canary)], dtype=[("a", "f4"), ("b", "O")]))
    saved["numpy-zip"] = io.BytesIO()
    np.savez(saved["numpy-zip"], x=np.array([canary], dtype=object))
    saved["numpy-zip"] = saved["numpy-zip"].getvalue()
    for how, data in saved.items():
        for suffix in (".pt", ".pth", ".ckpt", ".bin", ".npy", ".safetensors"):
            path = tmp_path / f"{how}{suffix}"
            path.write_bytes(data)
            with pytest.raises(DigitError) as caught:
                read(path)
            assert not proof.exists(), path
            assert str(path) in str(caught.value) and len(str(caught.value).splitlines()) == 1
            if how in ("torch-True", "torch-False", "bare-2"):
                assert f"names {name}, " in str(caught.value) and "not run" in str(caught.value)


def test_a_name_out_of_a_file_cannot_draw_on_the_terminal(tmp_path):
    data = b"\x80\x02cevil\x1b[2J" + b"x" * 5000 + b"\nrun\n."
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(DigitError, match=r"names evil\\x1b\[2J") as caught:
        read(tmp_path / "a.pt")
    assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 600


def zip_bytes(files: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def compressed() -> bytes:
    with zipfile.ZipFile(io.BytesIO(torch_bytes(content()))) as archive:
        return zip_bytes({name: archive.read(name) for name in archive.namelist()}, zipfile.ZIP_DEFLATED)


def tar_bytes() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return buffer.getvalue()


REFUSED = {
    "is empty": b"",
    "is no PyTorch, NumPy or safetensors file": b"<!DOCTYPE html><html>not found</html>",
    "only points to a file that Git LFS keeps": b"version https://git-lfs.github.com/spec/v1\noid sha256:00",
    "a zip archive that torch.save did not write": zip_bytes({"weights.pth": b"x"}),
    "a TorchScript program": zip_bytes({"a/data.pkl": b".", "a/constants.pkl": b"."}),
    "compressed after torch.save wrote it": compressed(),
    "is a tar archive": tar_bytes(),
    "Invalid magic number": pickle.dumps({"a": 1}, 2),
    "is damaged": torch_bytes(content())[:-700],
    "not a whole safetensors file": b"\xff" * 7 + b"\x00{" + b"x" * 64,
    "Object arrays|Python objects": numpy_bytes(np.array([None], dtype=object)),
    "nothing in it was run": numpy_bytes(np.array(["words"])),
}


@pytest.mark.parametrize("words", REFUSED)
def test_other_files_are_refused_in_one_sentence(tmp_path, words):
    (tmp_path / "a.pt").write_bytes(REFUSED[words])
    with pytest.raises(DigitError, match=words) as caught:
        read(tmp_path / "a.pt")
    assert str(tmp_path / "a.pt") in str(caught.value) and "\n" not in str(caught.value)


def test_wrong_paths(tmp_path):
    with pytest.raises(DigitError, match="is a folder"):
        read(tmp_path)
    with pytest.raises(DigitError, match="does not exist"):
        read(tmp_path / "none.pt")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DigitError, match="it is a pipe"):
        read(tmp_path / "pipe")


@pytest.mark.parametrize("kind", ["zip", "legacy", "numpy", "fortran", "safetensors"])
def test_damage_gives_a_sentence_or_content_never_a_crash(tmp_path, kind):
    """Truncations, flipped bits, other bytes, cuts: mostly in the first part, where the structure is."""
    numbers = np.random.default_rng(0).normal(size=(3, 5))
    whole = {
        "zip": lambda: torch_bytes({**content(), "args": argparse.Namespace(a=1, b=np.float64(2))}),
        "legacy": lambda: torch_bytes({**content(), "args": argparse.Namespace(a=1)}, zipped=False),
        "numpy": lambda: numpy_bytes(numbers.astype(np.float32)),
        "fortran": lambda: numpy_bytes(np.asfortranarray(numbers)),
        "safetensors": lambda: to_safetensors({"a": torch.randn(3, 4), "b": torch.ones(2).half()}),
    }[kind]()
    draw, path, outcomes = random.Random(0), tmp_path / "a.bin", set()
    for _ in range(300):
        data, how = bytearray(whole), draw.randrange(4)
        reach = len(data) if draw.random() < 0.5 else min(len(data), 1000)
        if how == 0:
            data = data[: draw.randrange(len(data))]
        for _ in range(draw.choice([1, 1, 2, 5]) if how else 0):
            place = draw.randrange(reach)
            data[place] = data[place] ^ (1 << draw.randrange(8)) if how == 1 else draw.randrange(256)
        if how == 3:
            place = draw.randrange(reach)
            del data[place : place + draw.randrange(9)]
        path.write_bytes(bytes(data))
        try:
            read(path)
            outcomes.add("read")
        except DigitError as error:
            outcomes.add("refused")
            assert "\n" not in str(error) and str(path) in str(error) and len(str(error)) < 1000
    assert outcomes == {"read", "refused"}


@pytest.mark.parametrize(
    "opcode", [b"\x8e", b"\x8d", b"\x96", b"\x8b"], ids=["bytes", "text", "bytearray", "number"]
)
def test_a_pickle_that_claims_more_than_it_holds_is_damaged(tmp_path, opcode):
    """Who reads it asks for that much memory at once; it is no lack of it."""
    length = (2**62).to_bytes(8, "little") if opcode != b"\x8b" else (2**31 - 1).to_bytes(4, "little")
    (tmp_path / "a.pt").write_bytes(b"\x80\x04" + opcode + length + b"abc.")
    with pytest.raises(DigitError, match="damaged"):
        read(tmp_path / "a.pt")
