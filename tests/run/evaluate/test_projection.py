"""`digit evaluate projection`: the toy alone, and real features of each kind of artifact."""

import pytest

from digit.evaluation.result import read_result


def test_the_toy_alone(run, json_of, saved_in, tmp_path):
    code, out, err = run("evaluate", "projection", "--out", tmp_path / "toy.json", "--json")
    assert code == 0
    assert saved_in(err) == ["toy.json", "toy.png"]
    assert "LDA angle, degrees" in err
    assert json_of(out)["values"] == read_result(tmp_path / "toy.json")["values"]
    assert (tmp_path / "toy.png").stat().st_size > 10_000
    assert not (tmp_path / "features.png").exists()


def test_without_out_a_table_and_a_word_that_nothing_is_kept(run):
    code, out, _ = run("evaluate", "projection")
    assert code == 0
    assert "not kept: --out FOLDER keeps the full record as JSON, and plots\n" in out
    assert "PCA accuracy" in out and "saved" not in out


@pytest.mark.parametrize("classes", [(), ("red", "blue")], ids=["all", "two"])
@pytest.mark.parametrize("kind", ["tokenizer", "vqgan"])
def test_features_of_an_artifact(chain, run, json_of, tmp_path, kind, classes):
    options = (
        "--images",
        chain.images,
        "--tokenizer",
        chain.root / kind,
        "--size",
        "16",
        "--snrs",
        "20",
        "0",
    )
    chosen = ("--classes", *classes) if classes else ()
    code, out, err = run("evaluate", "projection", *options, *chosen, "--out", tmp_path, "--json")
    assert code == 0
    value = json_of(out)
    assert value["settings"]["read_as"] in err.splitlines()
    assert f"{32 if classes else 48} pictures of {2 if classes else 3} classes" in err
    assert value["counts"]["classes"] == (2 if classes else 3)
    assert value["counts"]["pictures"] == (32 if classes else 48)
    for name in ("PCA accuracy, no noise", "LDA accuracy, 20 dB", "LDA Fisher ratio, 0 dB"):
        assert value["values"][f"features: {name}"] >= 0
    if kind == "tokenizer":  # three steps teach a VQGAN nothing
        assert value["values"]["features: LDA accuracy, no noise"] > 0.6  # a disc's colour is easy
    assert (tmp_path / "features.png").stat().st_size > 10_000


def test_bad_input_gets_one_sentence(chain, run):
    images = ("--images", chain.images)
    for arguments, sentence in (
        (images, "belong together"),
        ((*images, "--tokenizer", chain.root / "prior"), "is a prior"),
        ((*images, "--tokenizer", chain.root / "vqgan", "--classes", "pink"), "no class 'pink'"),
        (("--shrinkage", "2"), "--shrinkage: 2 is out of bounds"),
    ):
        code, _, err = run("evaluate", "projection", *arguments)
        assert code == 2
        assert sentence in err
