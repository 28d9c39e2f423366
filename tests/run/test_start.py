"""--init-from of every training: what the weights decide, what is said, and what a run that goes on does."""

import pytest
import torch

import digit
from digit.weights.artifact import artifact_of, load

STILL = ("--lr", 1e-9, "--warmup", 1, "--batch", 8, "--device", "cpu")


def command(chain, kind, model):
    """A training of this kind that starts from a model's part."""
    codes, images = ("--codes", chain.root / "codes"), ("--images", chain.images)
    verb = {
        "prior": ("train", "prior", *codes),
        "renderer": ("train", "renderer", *codes),
        "renderer_masked": ("train", "renderer", "--masked", *codes),
        "renderer_flow": ("train", "renderer", "--flow", *codes, *images),
        "vqgan": ("train", "vqgan", *images),
    }[kind]
    return (*verb, *STILL, "--init-from", model)


@pytest.mark.parametrize("kind", ["prior", "renderer", "renderer_masked", "renderer_flow", "vqgan"])
def test_a_training_has_the_weights_and_their_shape(chain, flow, run, tmp_path, kind):
    """Nothing of the shape is typed, and at a rate of nothing the weights are those it started from."""
    model = flow.all
    slow = tmp_path / "slow.toml"
    slow.write_text("codebook-decay = 0.9999999\n" if kind == "vqgan" else "")
    line = (*command(chain, kind, model), "--config", slow)
    code, _, err = run(*line, "--steps", 1, "--out", tmp_path / "run")
    assert code == 0, err
    before, after = load(model / kind), load(tmp_path / "run")
    assert f"starts from {model}, {kind} {artifact_of(before)['id'][:12]}" in err
    assert before.config == after.config
    assert artifact_of(after)["lineage"][f"{kind} to start from"] == artifact_of(before)["id"]
    for name, tensor in before.state_dict().items():
        assert (tensor - after.state_dict()[name]).abs().max() < 1e-5, name


def test_a_run_that_goes_on_keeps_its_state(chain, run, tmp_path):
    line = (*command(chain, "prior", chain.root / "prior"), "--out", tmp_path / "run", "--steps")
    assert run(*line, 1)[0] == 0
    code, _, err = run(*line, 2)
    assert code == 0 and "--init-from is not used, as the run goes on" in err and "starts from" not in err
    code, _, err = run(*line, 2)
    assert code == 0 and "nothing is left to do" in err
    first = [word for word in line if word not in ("--init-from", chain.root / "prior")]
    assert run(*first, 2, "--init-from", tmp_path / "run")[0] == 2


def test_settings_that_are_typed_win_over_the_weights(chain, run, tmp_path):
    line = (*command(chain, "prior", chain.root / "prior"), "--out", tmp_path / "run", "--steps", 1)
    code, _, err = run(*line, "--layers", 2, "--dropout", 0.3)
    assert code == 0 and "drawn newly: transformer.blocks.1." in err
    config = digit.load(tmp_path / "run").config
    assert (config.layers, config.dropout, config.label_dropout, config.width) == (2, 0.3, 0.5, 16)
    code, _, err = run(*line[:-2], "--steps", 1, "--width", 32)
    assert code == 2 and "width 16, not 32" in err and len(err.strip().splitlines()) == 1


def test_what_is_no_start_is_one_sentence(chain, run, tmp_path):
    line = ("train", "prior", "--codes", chain.root / "codes", "--out", tmp_path / "o", "--init-from")
    for name, words in (
        (chain.root / "vqgan", "is a vqgan, where a prior is needed"),
        (tmp_path, "holds no config.json"),
        ("nothing", "no model nothing"),
        ("cifar10", "belongs to the tokenizer"),
    ):
        code, _, err = run(*line, name)
        assert code == 2 and words in err and len(err.strip().splitlines()) == 1, err
    assert not (tmp_path / "o").exists()


def test_help_shows_the_weights_settings(run):
    out = run("train", "prior", "--init-from", "cifar10", "--help")[1]
    assert "(default: 320)" in out and "(default: pre)" in out
    out = run("train", "vqgan", "--init-from", "cifar10", "--help")[1]
    assert "(default: 4096)" in out


def test_a_dry_run_looks_at_the_fit(chain, run, tmp_path):
    line = (*command(chain, "prior", chain.root / "prior"), "--dry-run", "--out", tmp_path / "o")
    assert run(*line)[0] == 0 and not (tmp_path / "o").exists()
    code, _, err = run(*line, "--width", 32)
    assert code == 2 and "width 16, not 32" in err


def test_python_takes_the_shape_too(chain, tmp_path):
    how = {"training": chain.short, "device": "cpu"}
    digit.train_prior(chain.root / "codes", tmp_path / "run", init_from=chain.root / "model", **how)
    assert digit.load(tmp_path / "run").config == load(chain.root / "prior").config
    torch.manual_seed(0)


def test_parts_of_a_model_serve_where_artifacts_do(chain, run, tmp_path):
    model = chain.root / "model"
    code, _, err = run(
        *("tokenize", "--images", chain.images, "--tokenizer", model, "--vqgan", model),
        *("--out", tmp_path / "codes", "--device", "cpu"),
    )
    assert code == 0, err
    parts = [word for part in ("renderer", "vqgan", "tokenizer") for word in (f"--{part}", model)]
    code, _, err = run("compose", "--prior", chain.root / "prior", *parts, "--out", tmp_path / "model")
    assert code == 0, err
    code, _, err = run("compose", "--prior", chain.root / "prior", "--renderer-flow", model, "--out", "x")
    assert code == 2 and "has no renderer_flow: it has prior," in err
