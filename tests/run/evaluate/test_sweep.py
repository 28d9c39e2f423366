"""`digit evaluate sweep` on the tiny chain."""

import json
import shlex

import pytest
import torch

from digit.evaluation.result import read_result
from digit.nn.classifier import Classifier, ClassifierConfig
from digit.nn.sampling import DRAW
from digit.pipeline import DigitPipeline
from digit.weights.artifact import save
from digit.weights.model_folder import PipelineSampling
from digit.weights.storage import from_dict


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep") / "net"
    torch.manual_seed(0)
    save(Classifier(ClassifierConfig(classes=3, width=4, image_size=16)), path, classes=["a", "b", "c"])
    return f"classifier:{path}"


@pytest.fixture
def sweep(chain, network, run):
    """Run a sweep of 12 pictures a cell; gives (exit code, result, standard error)."""

    def call(*options):
        sets = ("--reference", chain.images, chain.root / "model", "--features", network)
        code, out, err = run("evaluate", "sweep", *sets, "--num", 12, "--few", *options, "--json")
        return code, json.loads(out) if out else None, err

    return call


@pytest.fixture
def counted(monkeypatch):
    """How often the prior draws codes: calls with something left to draw."""
    from digit.prior import Prior

    calls, plain = [], Prior.sample

    def sample(self, seeds, labels=None, config=None, *, prefix=None, **how):
        if prefix is None or prefix.shape[1] < self.config.length:
            calls.append(config)
        return plain(self, seeds, labels, config, prefix=prefix, **how)

    monkeypatch.setattr(Prior, "sample", sample)
    return calls


def test_the_prior_draws_once_a_prior_setting_and_done_cells_stay(sweep, counted, saved_in, tmp_path):
    axes = ("--top-k", 2, 0, "--guidance", 1, 2, "--renderer-top-p", 0.5, 0.8, 1, "--out", tmp_path / "r")
    code, value, err = sweep(*axes)
    assert code == 0, err
    assert [(config.top_k, config.guidance) for config in counted] == [(2, 1), (2, 2), (0, 1), (0, 2)]
    assert len(value["rows"]) == 12 and len({json.dumps(row["setting"]) for row in value["rows"]}) == 12
    files = {path.name for path in (tmp_path / "r").iterdir()}
    plots = {"sweep-fd.png", "sweep-is.png", "sweep-pareto.png"}
    assert files == {"sweep.json", "sweep-sampling.json", *plots} == set(saved_in(err))
    assert "12 pictures per setting against pictures.zip, the lowest distance first" in err
    assert "the best: digit sample" in err and "12 pictures: not comparable" in err
    assert value["settings"]["read_as"] in err.splitlines()
    distance = next(name for name in value["rows"][0]["values"] if name.startswith("FD"))
    lowest = min(row["values"][distance] for row in value["rows"])
    assert value["best"]["values"][distance] == lowest

    counted.clear()
    assert sweep(*axes)[1]["rows"] == value["rows"] and not counted
    path = tmp_path / "r" / "sweep.json"
    stored = read_result(path)  # as a run that was stopped in its last prior setting leaves it
    path.write_text(json.dumps({**stored, "rows": stored["rows"][:-1]}))
    code, again, err = sweep(*axes)
    assert "1 cells to measure, 11 done before" in err
    assert again["rows"] == value["rows"] and len(counted) == 1
    counted.clear()
    code, more, _ = sweep(*axes[:2], 5, "--out", tmp_path / "r")
    assert len(more["rows"]) == 13 and len(counted) == 1  # a new value beside those that are there


def test_a_cell_is_what_sample_and_evaluate_images_say(sweep, run, tmp_path):
    """The command printed for the best cell gives its pictures and its number."""
    code, value, err = sweep("--top-k", 3, "--renderer-top-k", 2, "--out", tmp_path / "r.json")
    assert code == 0, err
    draw, measure = value["best"]["command"].split(" && ")
    place = tmp_path / "best"
    words = [str(place) if word == "best" else word for word in shlex.split(draw)[1:]]
    assert run(*words)[0] == 0
    words = [str(place) if word == "best" else word for word in shlex.split(measure)[1:]]
    code, out, err = run(*words, "--json")
    assert code == 0, err
    found = json.loads(out)["values"]
    for name, number in value["rows"][0]["values"].items():
        assert found[name] == pytest.approx(number, rel=1e-4, abs=1e-6), name


def test_sampling_for_compose(sweep, chain, run, tmp_path):
    options = ("--renderer", "masked", "--passes", 2, 3, "--noise", 1.5, "--temperature", 0.7)
    code, _, err = sweep(*options, "--out", tmp_path / "r")
    assert code == 0, err
    path = tmp_path / "r" / "sweep-sampling.json"
    settings = from_dict(PipelineSampling, json.loads(path.read_text()), where=str(path))
    assert settings.masked_noise == 1.5 and settings.masked_steps in (2, 3)
    assert (
        settings.draw == DRAW == json.loads((tmp_path / "r" / "sweep.json").read_text())["settings"]["draw"]
    )
    assert settings.prior.temperature == 0.7 and settings.prior_unconditional.temperature == 1.0
    stages = ("--prior", chain.root / "prior", "--vqgan", chain.root / "vqgan")
    stages += ("--renderer-masked", chain.root / "masked", "--sampling", path)
    code, _, err = run("compose", *stages, "--out", tmp_path / "m")
    assert code == 0, err
    assert DigitPipeline.from_pretrained(tmp_path / "m").sampling == settings


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--top-p", 0.5, 1.5), "--top-p: 1.5 is out of bounds"),
        (("--top-k", -1), "--top-k: -1 is out of bounds"),
        (("--unconditional", "--guidance", 2), "--guidance 2 needs classes"),
        (("--passes", 2), "--passes is no setting of the autoregressive renderer"),
        (("--renderer", "masked", "--passes", 99), "--passes 99: give 1 to 16"),
        (("--renderer", "masked", "--renderer-top-p", 0.5), "--renderer-top-p is no setting of the masked"),
        (("--num", 1), "--num: 1 is out of bounds: give a whole number from 2"),
    ],
)
def test_wrong_grids_stop_before_the_first_picture(sweep, counted, tmp_path, options, words):
    code, value, err = sweep(*options, "--out", tmp_path / "r")
    assert code == 2 and value is None and words in err
    assert not counted and not list(tmp_path.iterdir())


def test_results_of_something_else_are_not_mixed(sweep, tmp_path):
    assert sweep("--out", tmp_path / "r.json")[0] == 0
    code, _, err = sweep("--recall", "--out", tmp_path / "r.json")
    assert code == 2 and "choose another --out" in err
