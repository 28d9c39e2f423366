"""What a file asks for is bounded by its bytes: refused in two seconds and without a gigabyte more."""

import hashlib
import io
import pickle
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from digit.errors import DigitError
from digit.evaluation.pictures import open_npz
from digit.files import read_json, write_json_atomic
from digit.weights.artifact import CONFIG, MODEL, load
from digit.weights.conversion import convert_file
from digit.weights.foreign import read
from digit.weights.model_folder import locate, open_model
from digit.weights.vit import vit_layout

FEW = {f"a.{i}": torch.zeros(1) for i in range(300)}


def peak() -> float:
    """The most memory that this process has held, in MB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def refused(work: Callable[[], Any], words: str | None = None) -> None:
    """`work` is refused in one sentence, early."""
    before, begun = peak(), time.process_time()
    with pytest.raises(DigitError, match=words):
        work()
    assert time.process_time() - begun < 2 and peak() - before < 1000


def artifact(folder: Path, part: str, settings: dict[str, Any], tensors: dict[str, Any], **more: Any) -> Path:
    """A part of the bundled model with other settings and tensors, sealed again."""
    whole = read_json(locate(None) / part / CONFIG)
    folder.mkdir()
    save_file(tensors, folder / MODEL)
    whole["config"] |= settings
    whole["files"] = {MODEL: hashlib.sha256((folder / MODEL).read_bytes()).hexdigest()}
    write_json_atomic(folder / CONFIG, whole | more, checksum=True)
    return folder


SETTINGS: list[tuple[str, dict[str, Any]]] = [
    *(("prior", {"layers": count}) for count in (1024, 60_000, 10**9)),
    ("prior", {"codes": 2**24, "length": 2**24}),
    ("prior", {"width": 2**16, "heads": 1}),
    ("renderer", {"layers": 1024, "vq_codes": 2**24}),
    ("vqgan", {"multipliers": [1] * 15, "blocks": 1024, "image_size": 2**14}),
    ("vqgan", {"multipliers": [1] * 24, "blocks": 1000}),
    ("vqgan", {"decoder_blocks": 6000}),
    ("vqgan", {"multipliers": [1] * 10**6}),
]
ENCODERS: list[dict[str, Any]] = [
    *({"arguments": {"depth": depth}} for depth in (1024, 10**6, "9", [12])),
    *({"arguments": {name: 2**16}} for name in ("embed_dim", "reg_tokens", "num_classes")),
    *({"arguments": {"img_size": size}} for size in (2**20, [2**14, 2**14])),
    {"arguments": {"patch_size": [1, 1], "img_size": [2**14, 2**14]}},
    {"image_size": 2**24},
    {"name": "vit_giant_patch14_dinov2", "arguments": {}},
]


@pytest.mark.parametrize(("part", "settings"), SETTINGS)
def test_settings_that_ask_for_much(tmp_path, part, settings):
    load(locate(None) / part)
    folder = artifact(tmp_path / "a", part, settings, FEW)
    refused(lambda: load(folder))


@pytest.mark.parametrize("settings", ENCODERS)
def test_encoders_that_ask_for_much(tmp_path, settings):
    load(locate(None) / "tokenizer")
    encoder = read_json(locate(None) / "tokenizer" / CONFIG)["config"]["encoder"]
    arguments = encoder["arguments"] | settings.get("arguments", {})
    changed = {"encoder": encoder | settings | {"arguments": arguments}}
    folder = artifact(tmp_path / "a", "tokenizer", changed, FEW)
    refused(lambda: load(folder))


def test_many_empty_tensors(tmp_path):
    load(locate(None) / "prior")
    empty = {f"transformer.blocks.{i}.attention.qkv.weight": torch.zeros(0) for i in range(60_000)}
    folder = artifact(tmp_path / "a", "prior", {"layers": 1000}, empty)
    refused(lambda: load(folder), "does not fit")


def test_a_header_without_end(tmp_path):
    path = tmp_path / "a.safetensors"
    text = (
        "{"
        + ",".join(f'"{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(400_000))
        + "}"
    )
    path.write_bytes(len(text).to_bytes(8, "little") + text.encode())
    refused(lambda: read(path), "a header of")


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"classes": ["a", "b", "c"]}, "names 3 classes, its tensors are of"),
        ({"classes": ["x" * 10**6] * 10}, "classes does not fit"),
        ({"lineage": {"vqgan": 5}}, "lineage does not fit"),
    ],
)
def test_other_names_of_classes_than_there_are_rows(tmp_path, entries, words):
    folder = artifact(tmp_path / "a", "prior", {}, FEW, **entries)
    refused(lambda: load(folder), words)


def test_a_model_of_fewer_class_names(chain, tmp_path):
    import shutil

    shutil.copytree(chain.root / "model", tmp_path / "model")
    whole = read_json(tmp_path / "model" / CONFIG)
    write_json_atomic(tmp_path / "model" / CONFIG, whole | {"classes": whole["classes"][:1]}, checksum=True)
    refused(lambda: open_model(tmp_path / "model"), "names 1 classes, its prior has 3")


def repeated(*shape: int) -> torch.Tensor:
    return torch.zeros(1).expand(shape)


WIDE = {name: repeated(*shape) for name, shape in vit_layout(8192, 12).items()}
ONE = torch.zeros(1000, 1000)
HOSTILE: dict[str, Any] = {
    "one number as all weights": WIDE,
    "under a place": {"teacher": {"backbone": 1}, "state_dict": WIDE},
    "in lists": {"optimizer": [{"a": (ONE, [repeated(10**6, 10**6)])}]},
    "windows": {"a": torch.zeros(10).as_strided((5000, 10), (0, 1))},
    "the same bytes a thousand times": {f"a{i}": ONE for i in range(1000)},
    "one table": repeated(2**20, 2**20),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", HOSTILE)
def test_pickled_tensors_of_more_than_their_bytes(tmp_path, name, zipped):
    torch.save(HOSTILE[name], tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    refused(lambda: read(tmp_path / "a.pt"), "carry|share")
    refused(lambda: convert_file(tmp_path / "a.pt"), "carry|share")


@pytest.mark.filterwarnings("ignore:Sparse")
def test_tensors_of_other_kinds(tmp_path):
    places = torch.zeros(1, 1, dtype=torch.int64)
    for other in (
        torch.sparse_coo_tensor(places, torch.zeros(1), (2**40,)),
        torch.zeros(2**40, device="meta"),
    ):
        torch.save({"encoder.down.0.x": other, "decoder.up.0.x": other}, tmp_path / "a.pt")
        refused(lambda: read(tmp_path / "a.pt"))


class Made:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.made = function, arguments

    def __reduce__(self) -> Any:
        return self.made


def doubled(times: int) -> Made:
    import _codecs

    return Made(_codecs.encode, doubled(times - 1) if times else b"x" * 1000, "hex")


@pytest.mark.parametrize("made", [Made(bytearray, 4 * 10**9), doubled(24)])
def test_pickles_that_make_bytes(tmp_path, made):
    whole = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(tmp_path / "a.pt", "w") as target:
        for entry in source.infolist():
            own = pickle.dumps(made, 2) if entry.filename.endswith("data.pkl") else source.read(entry)
            target.writestr(entry.filename, own)
    refused(lambda: read(tmp_path / "a.pt"), "makes bytes")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(made, 2) + b"x" * 100)
    refused(lambda: read(tmp_path / "b.pt"))


def test_what_checkpoints_really_hold_is_read(tmp_path):
    tied = torch.rand(3, 4)
    there = {"a": tied, "b": tied, "c": tied.T, "epoch": np.float64(1.5), "name": "zip", "raw": bytes(3)}
    for zipped in (True, False):
        torch.save(there, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        assert torch.equal(read(tmp_path / "a.pt")["c"], tied.T)


Member = tuple[tuple[int, ...], str, int]  # shape, type and bytes of an array


def npz(path: Path, **members: Member) -> Path:
    """Arrays of zeros, deflated to a thousandth."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (shape, kind, size) in members.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                head = {"descr": kind, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, head)
                for start in range(0, size, 2**24):
                    file.write(bytes(min(2**24, size - start)))
    return path


GOOD: Member = ((2, 8, 8, 3), "|u1", 384)


@pytest.mark.parametrize(
    "members",
    [
        {"arr_0": ((1, 12000, 12000, 3), "|u1", 432_000_000)},
        {"arr_0": ((1, 30000, 30000, 3), "|u1", 1000)},
        {"arr_0": ((2**62, 8, 8, 3), "|u1", 1000)},
        {"arr_0": ((2, 0, 8, 3), "|u1", 0)},
        {"arr_0": ((-2, 8, 8, 3), "|u1", 384)},
        {"arr_0": GOOD, "arr_1": ((50_000_000,), "<i8", 400_000_000)},
        {"arr_0": GOOD, "arr_1": ((2**70,), "<i8", 16)},
        {"arr_0": GOOD, "arr_1": ((2,), "<c16", 32)},
        {"arr_0": GOOD, "mu": ((8000,), "<f8", 64_000), "sigma": ((8000, 8000), "<f8", 512_000_000)},
        {"mu": ((4, 4, 4), "<f8", 512)},
    ],
)
def test_arrays_that_inflate(tmp_path, members):
    path = npz(tmp_path / "a.npz", **members)
    refused(lambda: list(open_npz(path).batches))


def test_large_pictures_come_few_at_once(tmp_path):
    path = npz(tmp_path / "a.npz", arr_0=((4, 6000, 6000, 3), "|u1", 432_000_000))
    assert [len(batch) for batch in open_npz(path, 256).batches] == [2, 2]


@pytest.mark.parametrize(
    "header", [b"{((((((", b"{'descr': ", b"\x00" * 40, b"[" * 5000, b"", b"{'descr': '|O', "]
)
def test_odd_headers_of_arrays(tmp_path, header):
    text = header + b" " * (-(len(header) + 11) % 64) + b"\n"
    whole = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("arr_0.npy", whole)
    refused(lambda: open_npz(tmp_path / "a.npz"))
    (tmp_path / "a.npy").write_bytes(whole)
    refused(lambda: read(tmp_path / "a.npy"))
