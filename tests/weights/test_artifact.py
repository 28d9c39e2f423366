import json
import os
import threading
from dataclasses import dataclass, field

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from digit.errors import DigitError
from digit.files import read_json, sha256_file
from digit.weights import artifact


@dataclass(frozen=True)
class InnerConfig:
    size: int = 3
    scale: float = 1.0


@dataclass(frozen=True)
class PriorConfig:
    width: int = 8
    betas: tuple[float, float] = (0.9, 0.99)
    inner: InnerConfig = field(default_factory=InnerConfig)
    names: dict[str, int] = field(default_factory=dict)
    weights: str | None = None


class Prior(nn.Module):
    """Takes the place of the real one, so that these tests need no stage."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.config = config
        self.layer, self.norm = nn.Linear(config.width, 4), nn.LayerNorm(4)
        self.register_buffer("centroids", torch.randn(5, config.width))
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("cache", torch.ones(2), persistent=False)


@pytest.fixture(autouse=True)
def prior_is_ours(monkeypatch):
    monkeypatch.setitem(artifact.KINDS, "prior", (Prior, PriorConfig))


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    prior = Prior(PriorConfig(names={"a": 1}))
    id = artifact.save(prior, tmp_path / "prior", lineage={"tokenizer": "f00"}, classes=["cat", "dog"])
    return prior, tmp_path / "prior", id


def edit(path, **changes):
    value = read_json(path / "config.json")
    (path / "config.json").write_text(json.dumps({**value, **changes}))


def replace_tensors(path, tensors):
    save_file(tensors, path / "model.safetensors")
    edit(path, files={"model.safetensors": sha256_file(path / "model.safetensors")})


def test_round_trip(saved):
    prior, path, id = saved
    state = torch.get_rng_state()
    loaded = artifact.load(path, kind="prior")
    assert torch.equal(state, torch.get_rng_state())
    assert loaded.config == prior.config and not loaded.training
    for name, tensor in prior.state_dict().items():
        assert (
            torch.equal(tensor, loaded.state_dict()[name]) and tensor.dtype == loaded.state_dict()[name].dtype
        )
    known = artifact.artifact_of(loaded)
    assert (known["id"], known["lineage"], known["classes"]) == (id, {"tokenizer": "f00"}, ["cat", "dog"])
    assert artifact.describe(path) == known
    with pytest.raises(DigitError, match="comes from no artifact"):
        artifact.artifact_of(prior)


def test_loading_draws_no_random_start(saved):
    class Calls(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(func.__name__.split(".")[0])
            return func(*args, **(kwargs or {}))

    prior, path, _ = saved
    names: list[str] = []
    with Calls():
        loaded = artifact.load(path)
    assert "uniform_" not in names and "empty" in names  # of the layer; the buffer's randn is no start
    assert torch.equal(loaded.layer.weight, prior.layer.weight)
    with Calls():
        Prior(PriorConfig())
    assert "uniform_" in names  # as it does without the artifact


def test_the_id_is_of_settings_and_weights(saved, tmp_path):
    prior, path, id = saved
    assert artifact.save(prior, tmp_path / "again", extra={"note": 1}) == id
    assert artifact.save(artifact.load(path), tmp_path / "reloaded") == id
    with torch.no_grad():
        prior.layer.bias[0] += 1e-6
    assert artifact.save(prior, tmp_path / "changed") != id
    assert artifact.save(prior, tmp_path / "packed", stored_as="int8", id=id) == id
    assert artifact.describe(tmp_path / "packed")["id"] == id


def test_equal_models_are_equal_files(saved, tmp_path):
    prior, path, _ = saved
    for turn in range(8):
        artifact.save(prior, tmp_path / str(turn), lineage={"tokenizer": "f00"}, classes=["cat", "dog"])
        for name in ("model.safetensors", "config.json"):
            assert (tmp_path / str(turn) / name).read_bytes() == (path / name).read_bytes()


def test_a_model_asks_for_no_more_than_its_tensors(saved):
    _, path, _ = saved
    for config in ({"width": 2**40}, {"names": {"layers": 10**8}}):
        edit(path, config=config)
        with pytest.raises(DigitError, match="which its tensors cannot make"):
            artifact.load(path)
    edit(path, config={"width": 2**20})
    with pytest.raises(DigitError, match="another shape"):
        artifact.load(path)
    edit(path, config={"width": -3})
    with pytest.raises(DigitError, match="no network can be made"):
        artifact.load(path)


def test_int8_error_is_bounded_by_each_row(saved, tmp_path):
    prior, _, _ = saved
    with torch.no_grad():
        prior.layer.weight[1] *= 1000
        prior.layer.weight[2] = 0
    artifact.save(prior, tmp_path / "int8", stored_as="int8")
    stored = load_file(tmp_path / "int8/model.safetensors")
    assert stored["layer.weight"].dtype == torch.int8 and stored["layer.weight.scale"].shape == (4,)
    loaded = artifact.load(tmp_path / "int8").state_dict()
    error = (loaded["layer.weight"] - prior.layer.weight).abs().amax(1)
    assert (error <= prior.layer.weight.abs().amax(1) / 254 * 1.0001).all() and error[2] == 0
    for exact in ("layer.bias", "centroids", "count", "norm.weight"):
        assert torch.equal(loaded[exact], prior.state_dict()[exact])


def test_float16(saved, tmp_path):
    prior, _, _ = saved
    artifact.save(prior, tmp_path / "half", stored_as="float16")
    loaded = artifact.load(tmp_path / "half")
    assert torch.equal(loaded.layer.weight, prior.layer.weight.half().float())
    with torch.no_grad():
        prior.layer.weight[0, 0] = 1e6
    with pytest.raises(DigitError, match="float16 cannot"):
        artifact.save(prior, tmp_path / "large", stored_as="float16")


def test_wrong_paths_and_kinds(saved, tmp_path):
    _, path, _ = saved
    with pytest.raises(DigitError, match="is not a folder"):
        artifact.load(tmp_path / "none")
    with pytest.raises(DigitError, match=r"holds no config\.json"):
        artifact.load(tmp_path)
    with pytest.raises(DigitError, match="is a prior, where a vqgan is needed"):
        artifact.load(path, kind="vqgan")
    with pytest.raises(DigitError, match="cannot be an artifact"):
        artifact.save(nn.Linear(1, 1), tmp_path / "linear")
    (path / "model.safetensors").unlink()
    with pytest.raises(DigitError, match="copy the whole folder"):
        artifact.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "newer digit"),
        ({"format": "1"}, "does not describe"),
        ({"kind": "poem"}, "no artifact kind 'poem'"),
        ({"id": 7}, "id does not fit"),
        ({"files": {"model.safetensors": "00"}}, "sha256 differs"),
        ({"config": {"widht": 8}}, "did you mean width"),
        ({"config": {"inner": {"sise": 3}}}, "did you mean size"),
        ({"config": {"width": "8"}}, "width does not fit"),
        ({"config": {"betas": [0.1]}}, "betas"),
        ({"config": {"width": 9}}, r"another shape: centroids \[5, 8\] for \[5, 9\], layer.weight"),
    ],
)
def test_settings_that_do_not_fit(saved, changes, message):
    _, path, _ = saved
    edit(path, **changes)
    with pytest.raises(DigitError, match=message):
        artifact.load(path)


def test_tensors_that_do_not_fit(saved):
    prior, path, _ = saved
    tensors = {name: tensor.clone() for name, tensor in prior.state_dict().items()}
    tensors["extra"] = tensors.pop("layer.bias")
    replace_tensors(path, tensors)
    with pytest.raises(DigitError, match=r"missing: layer\.bias; unknown: extra"):
        artifact.load(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["layer.weight", "centroids"])
def test_weights_that_are_not_finite_are_named(saved, name, value):
    prior, path, _ = saved
    tensors = {key: tensor.clone() for key, tensor in prior.state_dict().items()}
    tensors[name][-1, -1] = value
    replace_tensors(path, tensors)
    with pytest.raises(DigitError, match=rf"model\.safetensors holds values that are not finite, in {name}:"):
        artifact.load(path)


def test_damaged_files(saved):
    _, path, _ = saved
    (path / "config.json").write_text("{")
    with pytest.raises(DigitError, match="cannot be read as JSON"):
        artifact.load(path)
    (path / "config.json").write_text("[]")
    with pytest.raises(DigitError, match="does not describe"):
        artifact.load(path)


def test_a_header_that_lies_is_refused(saved):
    _, path, _ = saved
    (path / "model.safetensors").write_bytes(b"\xff" * 64)
    edit(path, files={"model.safetensors": sha256_file(path / "model.safetensors")})
    with pytest.raises(DigitError, match="not a whole safetensors file"):
        artifact.load(path)


def test_every_kind_knows_its_settings():
    for kind, (stage, config) in artifact.KINDS.items():
        assert artifact.classes_of(kind) == (stage, config)
        assert config.__name__.endswith("Config")
    with pytest.raises(DigitError, match="no artifact kind"):
        artifact.classes_of("horse")


def test_a_setting_that_comes_later_changes_no_id():
    @dataclass(frozen=True)
    class LaterConfig(PriorConfig):
        later: int = 7
        inside: InnerConfig = field(default_factory=InnerConfig)

    before = Prior(PriorConfig(width=4, inner=InnerConfig(size=5)))
    after = Prior(LaterConfig(width=4, inner=InnerConfig(size=5)))
    after.load_state_dict(before.state_dict())
    assert artifact.identity(after) == artifact.identity(before)
    other = Prior(LaterConfig(width=4, inner=InnerConfig(size=5), later=8))
    other.load_state_dict(before.state_dict())
    assert artifact.identity(other) != artifact.identity(before)


def test_two_writers_leave_one_whole_artifact_or_one_sentence(tmp_path, monkeypatch):
    """The second comes between the weights and the config.json of the first, in another thread or later."""
    first, second = Prior(PriorConfig()), Prior(PriorConfig())
    write, refused = artifact.write_json_atomic, []

    def between(path, value, **options):
        def another():
            try:
                artifact.save(second, tmp_path / "prior")
            except DigitError as error:
                refused.append(str(error))

        if not refused:
            thread = threading.Thread(target=another)
            thread.start()
            thread.join()
        write(path, value, **options)

    monkeypatch.setattr(artifact, "write_json_atomic", between)
    id = artifact.save(first, tmp_path / "prior")
    assert len(refused) == 1 and "is writing an artifact" in refused[0]
    loaded = artifact.load(tmp_path / "prior")
    assert artifact.identity(loaded) == id == loaded.artifact["id"]
    assert artifact.save(second, tmp_path / "prior") == artifact.identity(artifact.load(tmp_path / "prior"))


def test_the_weights_that_were_compared_are_those_that_are_loaded(saved, tmp_path, monkeypatch):
    """Whatever takes the file's place between the comparison and the reading."""
    prior, path, _ = saved
    other = Prior(PriorConfig())
    artifact.save(other, tmp_path / "other")
    read = artifact.tensors_in

    def exchanged(file, name):
        (tmp_path / "other/model.safetensors").replace(path / "model.safetensors")
        return read(file, name)

    monkeypatch.setattr(artifact, "tensors_in", exchanged)
    assert torch.equal(artifact.load(path).layer.weight, prior.layer.weight)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_pipe_in_an_artifact_is_refused_at_once(saved, name):
    _, path, _ = saved
    (path / name).unlink()
    os.mkfifo(path / name)
    with pytest.raises(DigitError, match=str(path)):
        artifact.load(path)
