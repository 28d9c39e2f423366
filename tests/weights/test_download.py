"""digit.weights.download: a file of the hub goes on where an earlier attempt stopped."""

from pathlib import Path

import huggingface_hub
import pytest
from fake_hub import closed_port, fake_hub

from digit.errors import DigitError
from digit.weights import download as downloading
from digit.weights.download import fetch, forget

PATH = "outputs/run/checkpoint_last.pt"
NAME = f"owner/name/{PATH}"
DATA = bytes(range(256)) * 4096 * 3  # 3 MiB: more than one network read, every half ends inside of it


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(downloading, "PAUSE", 0.0)
    with fake_hub() as hub:
        hub.files[NAME] = DATA
        yield hub


def get(hub, tmp_path, path=PATH, **options) -> Path:
    return fetch("owner/name", path, cache=tmp_path / "cache", endpoint=hub.endpoint, **options)[0]


def one_sentence(error):
    text = str(error.value)
    return "\n" not in text and len(text) < 700


def blobs(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").glob("models--owner--name/blobs/*"))


def test_what_is_forgotten_is_fetched_anew(hub, tmp_path):
    path = get(hub, tmp_path)
    assert path.read_bytes() == DATA and blobs(tmp_path) == [hub.sha256(NAME)]
    get(hub, tmp_path)
    assert len(hub.ranges) == 1
    forget(path)
    assert not path.exists() and blobs(tmp_path) == []
    assert get(hub, tmp_path).read_bytes() == DATA and len(hub.ranges) == 2


@pytest.mark.parametrize("fault", ["close", "reset"])
def test_interruption_goes_on_where_it_stopped(hub, tmp_path, fault):
    hub.faults = [fault, fault]
    assert get(hub, tmp_path).read_bytes() == DATA
    starts = [int(text.removeprefix("bytes=").rstrip("-")) for text in hub.ranges]
    assert starts[0] == 0 < starts[1] < starts[2] < len(DATA)
    if fault == "close":
        assert starts[1] == len(DATA) // 2


def test_next_run_goes_on_where_the_last_one_stopped(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(downloading, "ATTEMPTS", 1)
    hub.faults = ["close", "stall_at_zero"]
    with pytest.raises(DigitError, match="cannot be reached") as error:
        get(hub, tmp_path)
    assert one_sentence(error) and "--files" in str(error.value)
    assert blobs(tmp_path) == [f"{hub.sha256(NAME)}.partial"]
    assert get(hub, tmp_path).read_bytes() == DATA
    assert hub.ranges[-1] == f"bytes={len(DATA) // 2}-" and blobs(tmp_path) == [hub.sha256(NAME)]


def test_the_token_stays_with_the_hub(hub, tmp_path):
    get(hub, tmp_path, token="hf_secret")
    for name, token in hub.tokens:  # files are stored on another host
        assert token == (None if name.startswith("stored/") else "Bearer hf_secret"), name
    assert len({name for name, _ in hub.tokens}) == 2


def test_a_server_without_ranges_starts_over(hub, tmp_path):
    hub.faults, hub.ignore_ranges = ["close"], True
    assert get(hub, tmp_path).read_bytes() == DATA
    assert len(hub.ranges) == 2


def test_a_file_the_hub_has_not(hub, tmp_path):
    with pytest.raises(DigitError, match=r"holds no other\.pt") as error:
        get(hub, tmp_path, "other.pt")
    assert one_sentence(error)


def test_the_hub_in_trouble(hub, tmp_path):
    hub.faults = ["error 503"]
    with pytest.raises(DigitError, match="503") as error:
        get(hub, tmp_path)
    assert one_sentence(error)


def test_no_room(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(downloading.shutil, "disk_usage", lambda path: type("", (), {"free": 10})())
    with pytest.raises(DigitError, match="--cache") as error:
        get(hub, tmp_path)
    assert one_sentence(error) and hub.ranges == []


def test_offline(hub, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    with pytest.raises(DigitError, match="cannot be reached") as error:
        fetch("owner/name", "x.pt", cache=cache, endpoint=f"http://127.0.0.1:{closed_port()}")
    assert one_sentence(error) and "owner/name" in str(error.value) and "--files" in str(error.value)
    get(hub, tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert get(hub, tmp_path).read_bytes() == DATA  # what is in the cache needs no hub
    with pytest.raises(DigitError, match="OfflineModeIsEnabled") as error:
        get(hub, tmp_path, "y.pt")
    assert one_sentence(error)
