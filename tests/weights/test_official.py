"""digit.weights.official: the published files, checked."""

import dataclasses
from pathlib import Path

import huggingface_hub
import pytest
from fake_hub import DATA, NAME, PATH, blobs

from digit.errors import DigitError
from digit.weights.official import OFFICIAL, OfficialFile, download


def official(hub, **changes):
    file = OfficialFile("owner/name", PATH, len(DATA), hub.sha256(NAME))
    return dataclasses.replace(file, **changes)


def get(hub, tmp_path, file=None, **options):
    return download(file or official(hub), cache=tmp_path / "cache", endpoint=hub.endpoint, **options)


def one_sentence(error):
    text = str(error.value)
    return "\n" not in text and len(text) < 700


def test_download_then_cache(hub, tmp_path):
    first = get(hub, tmp_path)
    assert first.path.read_bytes() == DATA and first.sha256 == hub.sha256(NAME) and first.against == "pinned"
    assert blobs(tmp_path) == [hub.sha256(NAME)]  # where the hub's own client looks for it
    heads = hub.heads
    assert get(hub, tmp_path) == first
    assert (hub.heads, len(hub.ranges)) == (heads, 1)  # the second time nothing was asked
    theirs = huggingface_hub.hf_hub_download(
        "owner/name", official(hub).path, cache_dir=tmp_path / "cache", endpoint=hub.endpoint
    )
    assert theirs == str(first.path)


def test_progress_counts_all_of_it_twice(hub, tmp_path):
    from contextlib import contextmanager

    seen = []

    @contextmanager
    def progress(title, total):
        counts = []
        yield counts.append
        seen.append((title.split()[0], total, sum(counts)))

    get(hub, tmp_path, progress=progress)
    assert seen == [("outputs/run/checkpoint_last.pt", 3, 3), ("sha256", 3, 3)]


@pytest.mark.parametrize("known", ["pinned", "hub"])
def test_damage_in_transit_is_found_and_fetched_anew(hub, tmp_path, known):
    """The unfinished file of an earlier attempt holds other bytes: the whole has the right size only."""
    file = official(hub) if known == "pinned" else official(hub, bytes=None, sha256=None)
    partial = tmp_path / "cache" / "models--owner--name" / "blobs" / f"{hub.sha256(NAME)}.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"x" * 1000)
    with pytest.raises(DigitError, match="sha256") as error:
        get(hub, tmp_path, file)
    assert one_sentence(error) and hub.sha256(NAME)[:12] in str(error.value) and file.path in str(error.value)
    assert blobs(tmp_path) == []
    result = get(hub, tmp_path, file)
    assert result.path.read_bytes() == DATA and result.against == known


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"bytes": 5}])
def test_another_file_than_the_published_one(hub, tmp_path, change):
    with pytest.raises(DigitError, match="repeat the command") as error:
        get(hub, tmp_path, official(hub, **change))
    assert one_sentence(error) and blobs(tmp_path) == []


@pytest.mark.parametrize(
    "place", ["outputs/run/checkpoint_last.pt", "run/checkpoint_last.pt", "checkpoint_last.pt"]
)
def test_files_that_are_here_already(hub, tmp_path, place):
    path = tmp_path / "files" / place
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    result = download(official(hub), files=tmp_path / "files")
    assert (result.path, result.against) == (path, "pinned")
    assert download(official(hub, sha256=None), files=tmp_path / "files").against == "nothing"
    with pytest.raises(DigitError, match="files") as error:
        download(official(hub, sha256="0" * 64), files=tmp_path / "files")
    assert one_sentence(error) and path.read_bytes() == DATA  # people's own files stay
    with pytest.raises(DigitError, match="holds no") as error:
        download(official(hub, path="outputs/run/best.pt"), files=tmp_path / "files")
    assert one_sentence(error) and hub.heads == 0


def test_the_longest_place_wins(hub, tmp_path):
    for place in ("run/checkpoint_last.pt", "checkpoint_last.pt"):
        path = tmp_path / place
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(DATA if "/" in place else b"another")
    assert download(official(hub), files=tmp_path).path.parent.name == "run"


def test_the_document_lists_every_file():
    text = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    rows = {line.split("`")[1]: line for line in reversed(lines)}  # of a name the first counts
    for name, model in OFFICIAL.items():
        for file in (model.prior, model.renderer, model.centroids, model.vqgan):
            assert (file.sha256 or "unknown") in rows[file.path], file.path
            size = f"{file.bytes:,}" if file.bytes else "| unknown |" if not file.sha256 else "about"
            assert size in rows[file.path], file.path
        figures = (model.top_k, model.published.fid, model.published.inception_score)
        assert "| no | " in rows[name] or "cond" in name
        assert f"| {' | '.join(map(str, figures))} |" in rows[name]


def test_table():
    """Sizes follow from the shapes of method section 5.2: float32 tensors and 100 to 450 bytes about each."""
    encoder, table = 86_583_552, 768 * 8192 + 8192 + 1
    decoders = {
        "base": (219_377_664, 438),
        "base_400": (219_377_664, 438),
        "base_cond": (220_401_664, 438),
        "base_cond_400": (220_401_664, 438),
    }
    for name, (decoder, tensors) in decoders.items():
        surplus = (OFFICIAL[name].prior.bytes or 0) - 4 * (decoder + encoder + table)
        assert 100 < surplus / tensors < 450, name
    renderer = OFFICIAL["base"].renderer
    surplus = (renderer.bytes or 0) - 4 * (214_144_000 + encoder + table + 54_515_587)
    assert 100 < surplus / 609 < 450
    assert OFFICIAL["base"].centroids.bytes == 128 + 4 * 8192 * 768
    assert OFFICIAL["large"].centroids.bytes == 128 + 4 * 16000 * 1024
    files = {file for model in OFFICIAL.values() for file in (model.prior, model.renderer, model.centroids)}
    assert len({file.path for file in files}) == len(files) == 10
    known = [file.sha256 for file in files if file.sha256]
    assert len(set(known)) == len(known) == 8 and all(len(bytes.fromhex(text)) == 32 for text in known)
    for name, model in OFFICIAL.items():
        assert model.top_k == (400 if "large" in name else 300 if "cond" in name else 200)
        assert model.renderer_sampling.top_p == 0.8 and model.renderer_sampling.top_p_of == "vocabulary"
