import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from odd_pictures import broken, encoded, picture, readable
from PIL import Image

from digit.data import loader
from digit.data.images import open_images
from digit.data.loader import Report, in_blocks, load_pixels, stream
from digit.data.transforms import render
from digit.errors import DigitError


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Every odd picture, the broken ones included."""
    root = tmp_path_factory.mktemp("odd")
    for name, data in (readable() | broken()).items():
        (root / name).write_bytes(data)
    return open_images(root)


def test_readable_pictures_come_in_order_and_the_rest_is_reported(source):
    report = Report()
    good, pixels = load_pixels(source, range(len(source)), 8, threads=3, report=report)
    assert [source.names[i] for i in good] == sorted(readable())
    assert [name for name, _ in report.skipped] == sorted(broken())
    assert pixels.shape == (len(good), 3, 8, 8) and pixels.dtype == torch.uint8
    for threads in (1, None):
        again, same = load_pixels(source, np.arange(len(source)), 8, threads=threads, report=report)
        assert np.array_equal(again, good) and torch.equal(same, pixels)
    assert len(report.skipped) == len(broken())


def test_the_report_is_a_sentence_and_a_file(source, tmp_path):
    report = Report()
    assert report.summary() == "No picture was skipped."
    load_pixels(source, [source.names.index("empty.jpg")], 8, report=report)
    assert report.summary() == "1 picture was skipped, the first is empty.jpg (the file is empty)."
    report.write(tmp_path / "skipped.json")
    written = json.loads((tmp_path / "skipped.json").read_text())
    assert written == {"skipped": [{"name": "empty.jpg", "reason": "the file is empty"}]}
    assert [path.name for path in tmp_path.iterdir()] == ["skipped.json"]


def test_strict_names_the_file(source):
    with pytest.raises(DigitError, match=r"bomb\.png in"):
        load_pixels(source, range(len(source)), 8, strict=True)
    with pytest.raises(DigitError, match=r"bomb\.png in"):
        list(stream(source, 8, batch_size=2, strict=True))


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_a_stream_gives_each_view_of_each_picture(source, batch_size):
    rows = list(stream(source, 8, batch_size=batch_size, views=3, seed=4, threads=2))
    indices = np.concatenate([indices for indices, _ in rows])
    pixels = torch.cat([pixels for _, pixels in rows])
    assert all(0 < len(indices) <= batch_size for indices, _ in rows)
    for view in range(3):
        good, expected = load_pixels(source, range(len(source)), 8, view=view, seed=4)
        assert np.array_equal(indices, good) and torch.equal(pixels[:, view], expected)


def test_a_stream_has_blocks_and_can_be_left(source):
    assert sum(len(good) for good, _ in stream(source, 8, batch_size=4, blocks=[])) == 0
    part = np.concatenate([good for good, _ in stream(source, 8, batch_size=4, blocks=[range(5, 11)])])
    assert part.min() >= 5 and part.max() <= 10
    blocks = in_blocks(len(source), 6)
    assert [i for block in blocks for i in block] == list(range(len(source)))
    report, whole = Report(), Report()
    rows = [good.tolist() for good, _ in stream(source, 8, batch_size=4, blocks=blocks, report=report)]
    assert all(good[0] // 6 == good[-1] // 6 for good in rows)  # no batch is of two blocks
    every = [i for good, _ in stream(source, 8, batch_size=5, report=whole) for i in good.tolist()]
    assert [i for good in rows for i in good] == every
    assert report.skipped == whole.skipped
    before = threading.active_count()
    rows = stream(source, 8, batch_size=1, threads=2)
    next(rows)
    rows.close()
    assert threading.active_count() <= before


def test_a_stream_reads_only_a_little_ahead(tmp_path):
    for i in range(40):
        (tmp_path / f"{i:02d}.png").write_bytes(encoded(picture(seed=i), "PNG"))
    source = open_images(tmp_path)
    reads: list[int] = []
    read = source.read
    object.__setattr__(source, "read", lambda i: (reads.append(i), read(i))[1])
    rows = stream(source, 8, batch_size=4, threads=2)
    next(rows)
    time.sleep(0.2)
    assert max(reads) < 4 * 4
    assert sum(len(good) for good, _ in rows) == 36


def test_names_and_seeds_reach_the_random_views(tmp_path):
    image = picture(40, 30)
    (tmp_path / "a.png").write_bytes(encoded(image, "PNG"))
    _, pixels = load_pixels(open_images(tmp_path), [0], 8, view=2, seed=7)
    assert np.array_equal(pixels[0].numpy(), render(image, 8, view=2, seed=7, name="a.png"))


def test_processes_give_what_threads_give(source, monkeypatch):
    expected = list(
        stream(source, 8, batch_size=5, views=3, seed=4, report=(threaded := Report()), empty=True)
    )
    monkeypatch.setattr(loader, "_processes", lambda *_: 2)
    for batch_size in (5, len(source), 100):
        report = Report()
        rows = list(
            stream(source, 8, batch_size=batch_size, views=3, seed=4, report=report, empty=batch_size == 5)
        )
        assert report.skipped == threaded.skipped
        assert np.array_equal(np.concatenate([i for i, _ in rows]), np.concatenate([i for i, _ in expected]))
        assert torch.equal(torch.cat([p for _, p in rows]), torch.cat([p for _, p in expected]))
        assert batch_size != 5 or [len(i) for i, _ in rows] == [len(i) for i, _ in expected]
    with pytest.raises(DigitError, match=r"bomb\.png in"):
        list(stream(source, 8, batch_size=2, strict=True))
    rows = stream(source, 8, batch_size=1)
    next(rows)
    assert multiprocessing.active_children()
    rows.close()
    assert not multiprocessing.active_children()


def test_batches_stay_as_they_came(source, monkeypatch):
    """Memory that processes fill is filled again, but not under what the caller still has."""
    monkeypatch.setattr(loader, "_processes", lambda *_: 2)
    monkeypatch.setattr(loader, "_FOR_EACH", 1)
    held, copies = [], []
    for _, pixels in stream(source, 8, batch_size=2):
        held.append(pixels)
        copies.append(pixels.clone())
    assert len(held) > 3 and all(torch.equal(a, b) for a, b in zip(held, copies, strict=True))


@pytest.mark.parametrize("pause", [0, 1])
def test_a_killed_process_is_an_error_of_one_sentence(source, monkeypatch, pause):
    monkeypatch.setattr(loader, "_processes", lambda *_: 2)
    monkeypatch.setattr(loader, "_FOR_EACH", 1)
    rows = stream(source, 8, batch_size=1)
    next(rows)
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGKILL)
    time.sleep(pause)  # after it, the next picture is refused already when it is handed over
    with pytest.raises(DigitError, match="for want of memory: free some"):
        list(rows)


def test_processes_end_with_the_one_that_started_them(source, tmp_path):
    program = f"""
import time
from digit.data import loader
from digit.data.images import open_images
loader._processes = lambda *_: 2
rows = loader.stream(open_images({str(source.path)!r}), 8, batch_size=1)
next(rows)
import multiprocessing
print(*[child.pid for child in multiprocessing.active_children()], flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    children = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(children) == 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 20
    while time.monotonic() < end and any(_alive(pid) for pid in children):
        time.sleep(0.05)
    assert not any(_alive(pid) for pid in children)


def _alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("processors", "ranks", "pictures", "expected"),
    [
        (16, 1, 5000, 16),
        (16, 1, 4000, 0),
        (7, 1, 5000, 0),
        (64, 1, 5000, 32),
        (64, 4, 5000, 16),
        (16, 4, 5000, 0),
    ],
)
def test_processes_are_for_many_pictures_and_many_processors(
    tmp_path, monkeypatch, processors, ranks, pictures, expected
):
    noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(encoded(Image.fromarray(noise), "PNG"))
    source = open_images(tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)), raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert loader._processes(source, pictures) == expected
    (tmp_path / "a.png").write_bytes(encoded(picture(), "PNG"))  # a file of a few kB
    assert loader._processes(open_images(tmp_path), pictures) == 0
