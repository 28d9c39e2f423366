"""Published runs: their sizes and schedules to the digit, and each kind of them run small."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import digit
from digit.data.codes import Codes
from digit.errors import DigitError
from digit.evaluation.probe import pooled_states
from digit.files import read_json
from digit.nn.linear_probe import Probe, ProbeConfig
from digit.prior import Prior, PriorConfig
from digit.renderer import Renderer, RendererConfig
from digit.renderer_masked import MaskedConfig, MaskedRenderer
from digit.run.recipes import IMAGES, RECIPES
from digit.run.train.prior import train_prior
from digit.run.train.recipe import train_recipe
from digit.training.config import accumulation
from digit.training.log import read_status
from digit.training.optimizer import learning_rate
from digit.weights.artifact import describe, load

STAGES = {PriorConfig: Prior, RendererConfig: Renderer, MaskedConfig: MaskedRenderer, ProbeConfig: Probe}
SPECIALS, POSITIONS = 5, 1026  # rows that fairseq adds to a vocabulary; rows of each table of positions

# Rows of the reference that ours have not, all never read, or never drawn:
# - reading: the specials but the start (and the mask);
# - predicting: all specials;
# - positions: those behind the sequence, and the two that pad it.
ROWS = {
    PriorConfig: (SPECIALS - 1) + SPECIALS + (POSITIONS - 257),
    # One vocabulary for both kinds of code, with specials for each; two tables of positions. The
    # autoregressive renderer never reads the last VQ code.
    RendererConfig: (2 * SPECIALS - 1) + SPECIALS + (POSITIONS - 256) + (POSITIONS - 256),
    MaskedConfig: (2 * SPECIALS - 2) + SPECIALS + (POSITIONS - 256) + (POSITIONS - 257),
}
PUBLISHED = {
    "base": 219_377_664,
    "base_400": 219_377_664,
    "base_cond": 220_401_664,
    "base_cond_400": 220_401_664,
    "large": 730_699_776,
    "large_cond": 732_235_776,
    "renderer_ar": 214_144_000,
    "renderer_masked": 214_144_000,
    "vq_only": 204_699_648,
}


def parameters(name):
    recipe = RECIPES[name]
    with torch.device("meta"):
        stage = STAGES[type(recipe.model)](recipe.model)
    return sum(parameter.numel() for parameter in stage.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones_but_for_rows_without_use(name):
    recipe = RECIPES[name]
    assert parameters(name) + ROWS[type(recipe.model)] * recipe.model.width == PUBLISHED[name]


def test_the_small_prior_is_the_nearest_to_39m():
    shape = RECIPES["ablation_39m"].model
    small = parameters("ablation_39m")
    assert small == 38_307_840
    for width, layers in ((512, 9), (512, 10)):
        with torch.device("meta"):
            other = Prior(replace(shape, width=width, layers=layers, heads=8))
        assert abs(sum(p.numel() for p in other.parameters()) - 39e6) > abs(small - 39e6)


def test_the_probe_has_the_references_heads_and_the_last_blocks():
    recipe, prior = RECIPES["linear_probe"], RECIPES["base"].model
    assert (recipe.model.layers, recipe.model.width) == (prior.layers + 1, prior.width)
    assert parameters("linear_probe") == 17 * 1000 * (1024 + 1)


@pytest.mark.parametrize(
    ("name", "epochs"),
    [
        *[("base", 199.8), ("base_400", 399.6), ("base_cond", 199.8), ("base_cond_400", 399.6)],
        *[("large", 199.8), ("large_cond", 199.8), ("renderer_ar", 399.6), ("renderer_masked", 199.8)],
        *[("vq_only", 199.8), ("linear_probe", 79.9), ("ablation_39m", 99.9)],
    ],
)
def test_epochs(name, epochs):
    training = RECIPES[name].training
    assert training.steps * training.batch / IMAGES == pytest.approx(epochs, abs=0.05)


def test_every_recipe_is_checked_above():
    assert set(RECIPES) == {*PUBLISHED, "linear_probe", "ablation_39m"}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("base", {0: 1e-7, 6250: 3e-4, 125_000: 6.7082039e-5}),
        ("renderer_ar", {0: 1e-7, 6250: 5e-4, 250_000: 7.9056942e-5}),
        ("renderer_masked", {6250: 5e-4, 125_000: 1.1180340e-4}),
        ("vq_only", {6250: 5e-4}),
        ("linear_probe", {0: 0.4, 50_000: 0.2, 99_999: 9.8696051e-11}),
    ],
)
def test_learning_rates(name, values):
    training = RECIPES[name].training
    for step, value in values.items():
        found = learning_rate(step, training.optimizer, training.steps)
        assert found == pytest.approx(value, rel=1e-7, abs=0)


def test_hyper_parameters_of_the_configuration_files():
    for name, recipe in RECIPES.items():
        training, model = recipe.training, recipe.model
        optimizer = training.optimizer
        assert training.seed == 1
        if name == "linear_probe":
            sgd = (optimizer.kind, optimizer.betas[0], optimizer.nesterov, optimizer.weight_decay)
            assert sgd == ("sgd", 0.9, False, 0.0)
            assert (training.batch, training.micro_batch, training.clip) == (1024, 256, None)
            assert accumulation(training, 4) == 1
            continue
        assert (optimizer.betas, optimizer.eps, optimizer.weight_decay) == ((0.9, 0.98), 1e-8, 0.01)
        assert optimizer.decay_all and (optimizer.warmup, optimizer.warmup_from) == (6250, 1e-7)
        assert (training.batch, training.clip) == (2048, 1.0)
        assert (model.dropout, model.label_smoothing) == (0.1, 0.1)
        assert model.norm == ("post" if recipe.stage == "prior" and name != "vq_only" else "pre")
        assert accumulation(training, 8) == (2 if name.startswith("renderer") else 1)


@pytest.mark.parametrize("name", RECIPES)
def test_help_tells_cost_figure_and_the_settings(run, name):
    recipe = RECIPES[name]
    code, out, _ = run("train", recipe.stage, "--recipe", name, "--help")
    words = " ".join(out.split())
    assert code == 0
    assert f"Recipe {name}: {recipe.title}; {recipe.parameters} parameters" in words
    assert f"Published: {recipe.published}" in words
    assert all(f"{hours} " in words for hours in recipe.hours if hours)
    assert f"(default: {recipe.training.steps})" in words
    if "width" in recipe.options:
        assert f"channels. (default: {recipe.options['width']})" in words


@pytest.mark.parametrize("name", RECIPES)
def test_parameters_are_those_of_the_model(name):
    millions = parameters(name) / 1e6
    published = PUBLISHED.get(name, parameters(name)) / 1e6
    assert RECIPES[name].parameters in {f"{millions:.0f}M", f"{published:.0f}M"}


TINY = ("--steps", 4, "--batch", 8, "--micro-batch", 4, "--warmup", 1, "--log-every", 1, "--device", "cpu")
SHAPE = ("--width", 16, "--layers", 1, "--heads", 2)


def losses(out):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("base", "prior"), ("base_cond", "prior"), ("vq_only", "prior"), ("renderer_masked", "renderer_masked")],
)
def test_a_small_run_from_the_command_line(chain, run, tmp_path, name, kind):
    folders = ("--codes", chain.root / "codes", "--held-out", chain.root / "codes")
    stage = RECIPES[name].stage
    call = ("train", stage, "--recipe", name, *folders, *SHAPE, *TINY, "--json")
    code, out, err = run(*call, "--out", tmp_path / "a")
    assert code == 0, err
    assert json.loads(out)["finished"]
    artifact, recipe = describe(tmp_path / "a"), RECIPES[name]
    assert artifact["kind"] == kind
    assert artifact["config"]["norm"] == recipe.model.norm
    if kind == "prior":
        assert artifact["config"]["codes"] == (16 if name == "vq_only" else 8)
        assert artifact["config"]["classes"] == (3 if name == "base_cond" else 0)
    state = json.loads((tmp_path / "a/state/step-0000004/state.json").read_text())["config"]
    assert (state["steps"], state["seed"], state["optimizer"]["lr"]) == (4, 1, recipe.training.optimizer.lr)


@pytest.mark.parametrize("name", ["base", "renderer_ar"])
def test_a_stopped_run_goes_on_to_the_same_weights(chain, tmp_path, name):
    small = {"width": 16, "layers": 1, "heads": 2, "steps": 4, "batch": 8, "warmup": 1, "log_every": 1}
    call = {"codes": chain.root / "codes", "device": "cpu", **small}
    digit.train_recipe(name, out=tmp_path / "whole", **call)
    torch.rand(1)  # the first weights depend on the recipe's seed alone
    # A shorter run with the same schedule: inverse_sqrt does not depend on the number of steps.
    train_recipe(name, out=tmp_path / "parts", **call | {"steps": 2})
    assert not losses(tmp_path / "parts")[2:]
    result = train_recipe(name, out=str(tmp_path / "parts"), **call)
    assert result["finished"]
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert describe(tmp_path / "parts")["id"] == describe(tmp_path / "whole")["id"]


def test_an_old_command_is_answered_with_the_new_one(run):
    for name, recipe in RECIPES.items():
        code, out, err = run("train", name, "--codes", "my codes", "--out", "x")
        assert code == 2 and not out
        assert err == (
            f"digit: this is now: digit train {recipe.stage} --recipe {name} --codes 'my codes' --out x\n"
        )


def test_what_makes_a_recipe_cannot_be_changed(chain, run, tmp_path):
    call = ("train", "prior", "--recipe", "base", "--codes", chain.root / "codes", "--out", tmp_path / "p")
    code, _, err = run(*call, "--over", "vq_codes")
    assert code == 2 and "recipe base has over=codes: choose another recipe" in err
    with pytest.raises(DigitError, match="recipe base has conditional=False"):
        digit.train_prior(chain.root / "codes", tmp_path / "p", recipe="base", conditional=True)
    assert not (tmp_path / "p").exists()


def test_python_takes_recipes_too(chain, tmp_path):
    """What is given beside a recipe wins; the rest is the recipe's."""
    training = replace(RECIPES["base"].training, steps=1, batch=8)
    digit.train_prior(
        chain.root / "codes", tmp_path, recipe="base", width=16, heads=2, layers=1, training=training
    )
    config = describe(tmp_path)["config"]
    assert (config["width"], config["classes"], config["dropout"]) == (16, 0, 0.1)
    with pytest.raises(DigitError, match="recipe: give one of renderer_ar, renderer_masked, not 'base'"):
        digit.train_renderer(chain.root / "codes", tmp_path, recipe="base")


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("bass", {}, "no recipe 'bass'"),
        ("base", {"widht": 8}, "did you mean width?"),
        ("base", {"conditional": True}, "no setting conditional"),
        ("base", {"micro_batch": 0}, "micro_batch: 0 is out of bounds"),
        ("base", {"lr": -1.0}, "lr: -1 is out of bounds"),
        ("renderer_ar", {"tied": True}, "no setting tied"),
        ("linear_probe", {"prior": "nothing"}, "nothing is not a folder"),
        ("linear_probe", {}, "recipe linear_probe needs prior"),
    ],
)
def test_wrong_calls(chain, tmp_path, name, changes, words):
    with pytest.raises(DigitError, match=words):
        train_recipe(name, codes=chain.root / "codes", out=tmp_path / "x", **changes)
    assert not (tmp_path / "x").exists()


@pytest.fixture
def unlabelled(chain, tmp_path):
    folder = tmp_path / "unlabelled"
    shutil.copytree(chain.root / "codes", folder)
    meta = read_json(folder / "meta.json")
    meta |= {"labelled": False, "classes": []}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def test_labels_where_they_are_needed_and_only_there(unlabelled, chain, run, tmp_path):
    call = ("--codes", unlabelled, *SHAPE, *TINY, "--out", tmp_path / "p")
    code, _, err = run("train", "prior", "--recipe", "base_cond", *call)
    assert code == 2
    assert "has no labels, which base_cond needs" in err
    assert run("train", "prior", "--recipe", "base", *call)[0] == 0
    probe = ("--prior", tmp_path / "p", "--codes", unlabelled, *TINY, "--out", tmp_path / "q")
    code, _, err = run("train", "probe", *probe)
    assert code == 2
    assert "has no labels" in err


@pytest.mark.parametrize("prior", ["prior", "prior_vq"])
def test_the_linear_probe_of_a_frozen_prior(chain, run, tmp_path, prior):
    folders = ("--prior", chain.root / prior, "--codes", chain.root / "codes")
    call = (
        "train",
        "probe",
        "--recipe",
        "linear_probe",
        *folders,
        *TINY,
        "--warmup",
        0,
        "--held-out",
        chain.root / "codes",
    )
    before = describe(chain.root / prior)
    code, _, err = run(*call, "--out", tmp_path / "whole", "--json")
    assert code == 0, err
    artifact = describe(tmp_path / "whole")
    assert artifact["kind"] == "probe"
    assert artifact["lineage"] == {"prior": before["id"]}
    assert artifact["classes"] == ["blue", "green", "red"]
    assert describe(chain.root / prior) == before
    lines = [json.loads(line) for line in (tmp_path / "whole/log.jsonl").read_text().splitlines()]
    (measured,) = [line for line in lines if "top-1 layer 0" in line]
    probe, frozen = load(tmp_path / "whole", kind="probe"), load(chain.root / prior)
    codes = Codes(chain.root / "codes")
    tokens = torch.from_numpy(
        codes.array("vq_codes" if prior == "prior_vq" else "codes")[:, 0].astype("int64")
    )
    right = (
        probe.logits(pooled_states(frozen, tokens)).argmax(-1)[..., 0]
        == torch.from_numpy(codes.labels)[:, None]
    )
    for layer, share in enumerate(right.float().mean(0).tolist()):
        assert measured[f"top-1 layer {layer}"] == pytest.approx(share)
    assert "top-1 layer 2" not in measured  # one block: its input and its output


def test_a_stopped_probe_goes_on_to_the_same_weights(chain, tmp_path):
    small = {"width": 16, "layers": 2, "heads": 2, "steps": 1, "batch": 8, "device": "cpu"}
    train_recipe("base", codes=chain.root / "codes", out=tmp_path / "prior", **small)
    call = {"prior": tmp_path / "prior", "codes": chain.root / "codes", "device": "cpu"}
    call |= {"steps": 4, "batch": 8, "micro_batch": 4, "last_block": False, "lr_factors": (1.0, 0.1)}
    train_recipe("linear_probe", out=tmp_path / "whole", **call)
    train_recipe("linear_probe", out=tmp_path / "parts", **call, wall_clock_limit=0.0)
    assert not read_status(tmp_path / "parts").finished
    train_recipe("linear_probe", out=tmp_path / "parts", **call)
    assert describe(tmp_path / "parts")["id"] == describe(tmp_path / "whole")["id"]
    assert load(tmp_path / "parts").weight.shape == (2, 2, 16, 3)  # the inputs of both blocks, two rates


def test_the_probe_refuses_codes_of_another_shape_or_tokenizer(chain, tmp_path):
    other = tmp_path / "prior"
    shutil.copytree(chain.root / "prior", other)
    value = read_json(other / "config.json")
    (other / "config.json").write_text(json.dumps(value | {"lineage": {"tokenizer": "f" * 64}}))
    with pytest.raises(DigitError, match="belongs to the tokenizer ffffffffffff"):
        train_recipe("linear_probe", prior=other, codes=chain.root / "codes", out=tmp_path / "x")
    (other / "config.json").write_text(json.dumps(value | {"lineage": {"vqgan": "f" * 64}}))
    with pytest.raises(DigitError, match="belongs to the vqgan"):
        train_recipe("linear_probe", prior=other, codes=chain.root / "codes", out=tmp_path / "x")
    shutil.copytree(chain.root / "prior_vq", other, dirs_exist_ok=True)
    value = read_json(other / "config.json")
    (other / "config.json").write_text(json.dumps(value | {"lineage": {}}))
    with pytest.raises(DigitError, match="16 codes per picture out of 8, the prior"):
        train_recipe("linear_probe", prior=other, codes=chain.root / "codes", out=tmp_path / "x")


@pytest.mark.parametrize("name", RECIPES)
def test_hours_are_the_measured_ones(name):
    file = Path(__file__).parents[2] / "bench" / "results" / "recipes.json"
    measured, training = json.loads(file.read_text())["recipes"][name], RECIPES[name].training
    for way in ("compiled", "eager"):
        if "hours" in measured[way]:
            seconds = training.steps * training.batch / measured[way]["images_per_second"]
            assert measured[way]["hours"] == pytest.approx(seconds / 3600, rel=1e-6)
    hours = [round(measured[way]["hours"]) for way in ("compiled", "eager") if "hours" in measured[way]]
    assert [number for number in RECIPES[name].hours if number is not None] == hours


def test_the_seed_is_that_of_the_first_weights_too(chain, tmp_path):
    """Whatever was drawn before: two runs of one seed are one run, also where the caller drew numbers."""
    ids = []
    for i, seed in enumerate((3, 3, 4)):
        torch.manual_seed(i)
        training = replace(chain.short, steps=1, seed=seed)
        before = torch.random.get_rng_state()
        train_prior(chain.root / "codes", tmp_path / str(i), **{**chain.small, "training": training})
        assert torch.equal(torch.random.get_rng_state(), before)
        ids.append(describe(tmp_path / str(i))["id"])
    assert ids[0] == ids[1] != ids[2]
