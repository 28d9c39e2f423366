"""`digit fit`: what it leaves, what it says, and what a dry run says before."""

import json
import shutil

import pytest
from PIL import Image

from digit import centroids
from digit.run.fit import fit
from digit.weights.artifact import identity, load


def picture_size(path):
    with Image.open(path) as image:
        return image.size


def test_fit_leaves_an_artifact_with_its_report(chain):
    folder = chain.root / "tokenizer"
    tokenizer = load(folder, kind="tokenizer")
    assert tokenizer.centroids.shape == (8, 32)
    report = json.loads((folder / "report.json").read_text())
    assert 0 < report["usage"] <= 1
    assert len(report["inertia_by_iteration"]) == 6  # of each start, and of the result
    assert picture_size(folder / "codebook.png") > (64, 64)


def test_a_codebook_to_come(chain, run, json_of, tmp_path):
    encoder = ("--encoder", "dinov2-s", "--encoder-size", 28, "--device", "cpu", "--json")
    call = ("fit", "--images", chain.images, *encoder, "--clusters", 8, "--out", tmp_path / "run")
    code, out, err = run(*call, "--dry-run")  # nothing is downloaded
    assert code == 0, err
    told = json_of(out)
    assert told["vectors"] == {"of_all_pictures": 48 * 4 * 2, "kept": 48 * 4 * 2, "width": 384}
    assert told["memory_gib"]["sample_of_each_process"] * 2**30 == 8 * 256 * 384 * 4
    assert told["settings"]["encoder"]["image_size"] == 28
    assert not list(tmp_path.iterdir())
    assert run(*call[:-4], "--clusters", 10**6, "--out", tmp_path / "run", "--dry-run")[0] == 2


def test_a_fit_says_what_it_found_and_where_it_is(chain, run, tmp_path):
    encoder = ("--encoder-weights", chain.root / "encoder.safetensors", "--encoder-size", 16)
    shape = [word for pair in chain.fitted["encoder_arguments"].items() for word in pair]
    call = ("fit", "--images", chain.images, "--encoder", "vit_tiny_patch16_224", *encoder)
    options = ("--encoder-arguments", *shape, "--clusters", 4, "--per-cluster", 32, "--num", 10)
    code, out, err = run(*call, *options, "--device", "cpu", "--out", tmp_path / "t")
    assert code == 0, err
    told = {line.rsplit("  ", 1)[0].strip(): line.rsplit("  ", 1)[-1].strip() for line in out.splitlines()}
    assert told["pictures read"] == "10"
    assert told["codes used by 10 pictures"].startswith(("3 of 4", "4 of 4"))
    written = [line.removeprefix("saved: ") for line in out.splitlines() if line.startswith("saved: ")]
    assert written == [str(tmp_path / name) for name in ("t", "t/report.json", "t/codebook.png")]
    assert json.loads((tmp_path / "t" / "report.json").read_text())["pictures"] == 10


def test_an_interrupted_fit_begins_again_and_gives_the_same_tokenizer(chain, run, tmp_path, monkeypatch):
    shape = [word for pair in chain.fitted["encoder_arguments"].items() for word in pair]
    call = ("fit", "--images", chain.images, "--encoder", "vit_tiny_patch16_224", "--encoder-size", 16)
    call += ("--encoder-weights", chain.root / "encoder.safetensors", "--encoder-arguments", *shape)
    call += ("--clusters", 8, "--per-cluster", 64, "--iterations", 5, "--device", "cpu", "--out", tmp_path)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(centroids, "cluster", interrupted)
        code, out, err = run(*call)
    assert code == 130 and not out and "digit: interrupted" in err
    assert not (tmp_path / "config.json").exists()
    assert run(*call)[0] == 0
    assert identity(load(tmp_path)) == identity(load(chain.root / "tokenizer"))


def test_the_same_fit_gives_the_same_tokenizer(chain, tmp_path):
    """Whatever the batch."""
    ids = []
    for name, batch in (("a", 7), ("b", 48)):
        made = fit(chain.images, tmp_path / name, **chain.fitted, iterations=2, batch=batch, device="cpu")
        ids.append(made["id"])
        shutil.rmtree(tmp_path / name)
    assert ids[0] == ids[1]


@pytest.mark.parametrize("option", [{"block": -2}, {"norm": False}, {"encoder_size": 32}])
def test_an_encoder_of_an_artifact_has_its_own_settings(chain, tmp_path, option):
    from digit.errors import DigitError
    from digit.weights.artifact import save

    save(load(chain.root / "tokenizer").encoder, tmp_path / "encoder")
    with pytest.raises(DigitError, match=r"convert its file again|leave out the other encoder options"):
        fit(chain.images, tmp_path / "t", encoder=str(tmp_path / "encoder"), clusters=4, **option)
    made = fit(
        chain.images,
        tmp_path / "t",
        encoder=str(tmp_path / "encoder"),
        clusters=4,
        per_cluster=8,
        device="cpu",
    )
    lineage = load(tmp_path / "t").artifact["lineage"]
    assert made["codes"] == 4 and lineage == {"encoder": load(tmp_path / "encoder").artifact["id"]}
