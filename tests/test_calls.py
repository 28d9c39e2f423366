"""Callers in Python: every public function takes what people give it, and refuses the rest at the door."""

import ast
import importlib
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from tests_support import FIXTURES

import digit
from digit import kmeans
from digit.bounds import Bounds, Count, Share
from digit.calls import check_fields, checked, taken
from digit.errors import DigitError
from digit.nn.classifier import Classifier, ClassifierConfig
from digit.run.verbs import VERBS

ROOT = Path(__file__).parents[1]
# Called for each code that is drawn, or once by the house: they trust their callers.
INNER = {"digit.nn.sampling.draw"}
MODULES = ("kmeans", "features", "tokenizer", "vqgan", "prior", "renderer", "renderer_masked")


def documented() -> dict[str, Any]:
    """What README and docs import from modules of digit in their lines of Python, by full name."""
    found = {}
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("digit"):
                    for alias in node.names:
                        module = importlib.import_module(node.module)
                        found[f"{node.module}.{alias.name}"] = getattr(module, alias.name)
    return found


def public() -> dict[str, Callable[..., Any]]:
    """Every function of the surface by its name: exported, documented, of the pipeline and of the method."""
    surface = {f"digit.{name}": getattr(digit, name) for name in digit.__all__} | documented()
    found = {name: value for name, value in surface.items() if inspect.isfunction(value)}
    stages = {f"digit.{name}": importlib.import_module(f"digit.{name}") for name in MODULES}
    found["digit.kmeans.fit"] = stages["digit.kmeans"].fit
    own = {
        f"{where}.{name}": value
        for where, module in stages.items()
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == where and not is_dataclass(value)
    }
    own["digit.DigitPipeline"] = digit.DigitPipeline
    for where, kind in own.items():
        for name in ("__init__", "__call__", "encode", "decode", "sample", "vectors", "features", "nearest"):
            if name in vars(kind) and where.rpartition(".")[2] in (*STAGES, "DigitPipeline"):
                found[f"{where}.{name}"] = vars(kind)[name]
    for name, value in vars(digit.DigitPipeline).items():
        value = value.__func__ if isinstance(value, classmethod) else value
        if (
            inspect.isfunction(value)
            and not name.startswith("_")
            and len(inspect.signature(value).parameters) > 1
        ):
            found[f"digit.DigitPipeline.{name}"] = value
    return {name: value for name, value in found.items() if name not in INNER}


PLAIN = {Path: type(Path())}
STAGES = ("Tokenizer", "Prior", "Renderer", "MaskedRenderer", "VQGAN", "Encoder")
PUBLIC = public()


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    hints = get_type_hints(function, include_extras=True)
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function).parameters
    return {
        name: hints[name] for name, each in parameters.items() if each.kind not in kinds and name in hints
    }


def parts_of(annotation: Any) -> tuple[Any, list[Any], Bounds | None]:
    """A type without Annotated and None, its members where it is a union, and the bounds of a number."""
    bounds = None
    while get_origin(annotation) is Annotated:
        bounds = next((note for note in annotation.__metadata__ if isinstance(note, Bounds)), bounds)
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, type(int | str)):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        if len(kinds) == 1:
            return parts_of(kinds[0])
        return annotation, kinds, bounds
    return annotation, [annotation], bounds


def optional(annotation: Any) -> bool:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation is Any or type(None) in get_args(annotation)


def good(annotation: Any) -> list[Any]:
    """What people give for this, in every form of it."""
    kind, kinds, bounds = parts_of(annotation)
    origin = get_origin(kind)
    if len(kinds) > 1:
        return [value for each in kinds for value in good(each)]
    if kind is int:
        number = 1 if bounds is None or 1 in bounds else int(bounds.low)
        return [number, np.int64(number), np.int32(number), torch.tensor(number), np.array(number)]
    if kind is float:
        number = 1 if bounds is None or 1 in bounds else (bounds.low + min(bounds.high, 1)) / 2
        return [number, float(number), np.float32(number), torch.tensor(float(number))]
    if kind is bool:
        return [True, np.bool_(False)]
    if kind in (str, Path):
        return ["some/place", Path("some/place")]
    if origin is Literal:
        return [get_args(kind)[0]]
    if origin in (tuple, list, Sequence):
        member, *rest = get_args(kind)
        first, count = good(member)[0], 1 if not rest or rest[-1] is ... else len(rest) + 1
        several = [[first] * count, (first,) * count]
        if parts_of(member)[0] in (int, float):
            several += [np.array([first] * count), torch.tensor([first] * count)]
        return several + ([first, Path(first)] if Path in parts_of(member)[1] else [])
    if origin in (dict, Mapping):
        return [{}]
    if hasattr(kind, "array_type"):
        shape = [3 if "3" in size else 2 for size in kind.dim_str.split() if "..." not in size]
        whole = torch.zeros(shape, dtype=torch.int64 if kind.__name__.startswith("Int[") else torch.float32)
        return [whole, whole.numpy(), whole.tolist()]
    if kind is torch.device:
        return [torch.device("cpu")]
    return [object.__new__(kind)] if is_dataclass(kind) else []


def wrong(annotation: Any) -> list[Any]:
    """What nobody means, in every form that people mistype."""
    kind, kinds, bounds = parts_of(annotation)
    origin, nothing = get_origin(kind), [] if optional(annotation) else [None]
    if len(kinds) > 1:
        return [object(), *nothing]
    if kind in (int, float):
        beyond = [] if bounds is None else [bounds.low - 1, bounds.high + 1]
        beyond += [] if bounds is None or kind is int else [math.nan, math.inf]
        whole = [1.5, np.float64(1.5), torch.tensor(1.5)] if kind is int else []
        return [
            "8",
            True,
            np.bool_(True),
            [1],
            object(),
            *map(kind, beyond[:2]),
            *beyond[2:],
            *whole,
            *nothing,
        ]
    if kind is bool:
        return ["yes", 1, 0, object(), *nothing]
    if kind in (str, Path):
        return [3, 2.5, b"x", ["x"], "", " ", object(), *nothing]
    if origin is Literal:
        return ["nonsense", object(), *nothing]
    if origin in (tuple, list, Sequence):
        member = get_args(kind)[0]
        lone = [] if Path in parts_of(member)[1] else ["cat", Path("cat")]
        return [3, object(), {"a": 1}, *lone, *([each] for each in wrong(member)), *nothing]
    if origin in (dict, Mapping):
        return [3, "x", [1], *nothing]
    if hasattr(kind, "array_type"):
        deep = torch.zeros([2] * 7)
        return ["x", object(), ["a"], [[1], [2, 3]], *([deep] if "..." not in kind.dim_str else []), *nothing]
    if origin is Callable:
        return [3, "x", *nothing]
    return [object(), "x", *nothing] if inspect.isclass(kind) and kind is not Any else []


def test_every_public_function_checks_what_it_is_given():
    unchecked = [name for name, function in PUBLIC.items() if not hasattr(function, "__wrapped__")]
    assert not unchecked and len(PUBLIC) > 45, unchecked
    assert {verb.function().__name__ for verb in VERBS.values()} <= set(digit.__all__)
    names = {name.rpartition(".")[2] for name in PUBLIC}
    assert {"fit", "tokenize", "train_prior", "sample", "compose", "evaluate_images", "load", "save"} <= names


@pytest.mark.parametrize("name", PUBLIC)
def test_what_people_give_is_taken_in_every_form(name):
    for argument, hint in hints_of(PUBLIC[name]).items():
        for value in good(hint):
            found = taken(argument, value, hint)
            kind, kinds, _ = parts_of(hint)
            if kind in (int, float, bool, Path, str):
                assert type(found) is PLAIN.get(kind, kind), (name, argument, value)
            if get_origin(kind) is tuple:
                assert isinstance(found, tuple)
                member = parts_of(get_args(kind)[0])
                assert len(member[1]) > 1 or all(
                    type(each) is PLAIN.get(member[0], member[0])
                    for each in found
                    if member[0] in (int, float, Path, str)
                )
            if len(kinds) == 1 and hasattr(kind, "array_type"):
                assert type(found) is torch.Tensor


@pytest.mark.parametrize("name", PUBLIC)
def test_what_nobody_means_is_one_sentence_before_any_work(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function, hints = PUBLIC[name], hints_of(PUBLIC[name])
    parameters = inspect.signature(function).parameters
    owner = {"self": object(), "cls": object()}
    needed = {
        other: owner.get(other) or next(iter(good(hints.get(other, Any))), object())
        for other, each in parameters.items()
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    }
    for argument, hint in hints.items():
        for value in wrong(hint):
            # The wrong one is checked first: others may be of classes that are hard to make here.
            given = {argument: value, **{each: needed[each] for each in needed if each != argument}}
            with pytest.raises(DigitError) as error:
                call_first(function, argument, given)
            said = str(error.value)
            assert said.startswith(f"{argument}: ") and "--" not in said, (value, said)
            assert len(said.splitlines()) == 1 and len(said) < 300, said
    assert not list(tmp_path.iterdir())


def call_first(function: Callable[..., Any], argument: str, given: dict[str, Any]) -> None:
    """Call with arguments of which others than the first may be wrong too."""
    try:
        function(**given)
    except DigitError as error:
        if str(error).startswith(f"{argument}: "):
            raise
        taken(argument, given[argument], hints_of(function)[argument])
        raise AssertionError(f"{argument}={given[argument]!r} is taken") from error


def settings() -> list[type]:
    """The dataclasses that people write, of the surface and of what its functions take."""
    kinds = {
        value
        for value in (*documented().values(), digit.SamplerConfig, digit.PipelineSampling)
        if is_dataclass(value)
    }
    for function in PUBLIC.values():
        kinds |= {
            part for hint in hints_of(function).values() for part in parts_of(hint)[1] if is_dataclass(part)
        }
    return sorted(
        (kind for kind in kinds if kind.__name__.endswith(("Config", "Sampling", "DryRun"))), key=str
    )


@pytest.mark.parametrize("kind", settings(), ids=lambda kind: kind.__name__)
def test_settings_are_checked_as_arguments_are(kind):
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        if hints[field.name] in (int, float, bool, str) or get_origin(hints[field.name]) is Literal:
            for value in wrong(hints[field.name]):
                made = object.__new__(kind)  # what the suite's own checks of types would refuse
                for each in fields(kind):
                    usual = next(iter(good(hints[each.name])), None)
                    default = usual if each.default is MISSING else each.default
                    object.__setattr__(made, each.name, value if each is field else default)
                with pytest.raises(DigitError, match=f"^{field.name}: "):
                    made.__post_init__()


class Thing:
    """A class of a caller's own."""


@checked
def example(
    count: Count,
    names: tuple[str, ...] = (),
    *more: int,
    shares: tuple[Share, Share] | None = None,
    stream: Iterable[int] = (),
    thing: Thing | None = None,
    anything: Any = None,
    **rest: float,
) -> tuple[Any, ...]:
    """Give back what came."""
    return count, names, more, shares, list(stream), thing, anything, rest


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"count": 0}, "count: 0 is out of bounds: give a whole number from 1 up to"),
        ({"count": "3"}, "count: give a whole number, not '3'"),
        ({"count": 1, "names": "cat"}, "names: give a list, each a text, not 'cat'"),
        ({"count": 1, "names": ["a", 2]}, "names: give a text, not 2"),
        ({"count": 1, "shares": (0.5,)}, "shares: give 2 values, these are 1"),
        ({"count": 1, "shares": (0.5, 2)}, "shares: 2 is out of bounds"),
        ({"count": 1, "stream": 3}, "stream: give a list or a stream, not 3"),
        ({"count": 1, "thing": "x" * 99}, "thing: give a Thing, not 'xxx"),
        ({"count": torch.zeros(2)}, "count: give a whole number, not a Tensor"),
    ],
)
def test_sentences_name_the_argument(given, words):
    with pytest.raises(DigitError) as error:
        example(**given)
    assert str(error.value).startswith(words), str(error.value)


def test_the_rest_is_as_it_was():
    thing = Thing()
    assert example(2, ["a"], 3, 4.5, thing=thing, other=None) == (  # pyright: ignore
        2, ("a",), (3, 4.5), None, [], thing, None, {"other": None}
    )  # fmt: skip
    for call in (lambda: example(), lambda: example(1, cuont=2, count=1)):  # pyright: ignore
        with pytest.raises(TypeError, match=r"example\(\)"):
            call()
    assert inspect.signature(example).parameters["count"].default is inspect.Parameter.empty


def test_arrays_come_in_many_forms():
    codes = PUBLIC["digit.tokenizer.Tokenizer.vectors"]
    hint = hints_of(codes)["codes"]
    table = np.arange(12, dtype=np.uint16).reshape(3, 4)
    table.flags.writeable = False  # as of a memory map
    for value in (
        table,
        table[::-1][::-1],
        table.astype(">i4"),
        table.tolist(),
        torch.from_numpy(table.astype(np.uint8)),
    ):
        found = taken("codes", value, hint)
        assert found.dtype == torch.int64 and found.tolist() == table.tolist()


def test_a_home_folder_is_meant():
    assert taken("out", "~/x", Path) == Path.home() / "x"
    assert taken("device", torch.device("cpu"), str) == "cpu"


def test_fields_become_what_is_annotated():
    found = digit.SamplerConfig()
    object.__setattr__(found, "temperature", 1)
    object.__setattr__(found, "top_k", np.int64(3))
    check_fields(found)
    assert type(found.temperature) is float and type(found.top_k) is int


@pytest.fixture
def verbs(chain):
    """Every verb that writes, with texts for paths and small work; called with where it should write."""
    root, small = chain.root, {**chain.small, "width": np.int64(16)}
    codes, model, how = str(root / "codes"), str(root / "model"), {"device": "cpu"}
    measures = {"features": [f"classifier:{root / 'net'}"], "few": True, **how}
    if not (root / "net").exists():
        torch.manual_seed(0)
        digit.save(
            Classifier(ClassifierConfig(3, width=4, image_size=16)),
            str(root / "net"),
            classes=("a", "b", "c"),
        )
    stages = {name: str(root / name) for name in ("prior", "vqgan", "renderer", "tokenizer")}
    return {
        "fit": lambda out: digit.fit(chain.images, out, **chain.fitted, **how),
        "train_vqgan": lambda out: digit.train_vqgan(chain.images, out, training=chain.short, **how),
        "tokenize": lambda out: digit.tokenize(chain.images, out, tokenizer=stages["tokenizer"], **how),
        "train_prior": lambda out: digit.train_prior(codes, out, held_out=codes, **small),
        "train_renderer": lambda out: digit.train_renderer(codes, out, vqgan=stages["vqgan"], **small),
        "train_probe": lambda out: digit.train_probe(
            stages["prior"], codes, out, lr_factors=[1, 2], training=chain.short, **how
        ),
        "compose": lambda out: digit.compose(out=out, **stages),
        "sample": lambda out: digit.sample(
            model, seeds=np.array([4, 2]), labels=["red", np.int64(1)], out=out, **how
        ),
        "evaluate_images": lambda out: digit.evaluate_images(chain.images, chain.images, out=out, **measures),
        "evaluate_reconstruction": lambda out: digit.evaluate_reconstruction(
            model, chain.images, num=np.int64(4), out=out, **measures
        ),
        "evaluate_prefix": lambda out: digit.evaluate_prefix(
            [model], chain.images, np.array([0, 3]), num=4, out=out, **measures
        ),
        "evaluate_sweep": lambda out: digit.evaluate_sweep(
            model, reference=chain.images, num=4, top_k=[0, 2], out=out, **measures
        ),
        "evaluate_probe": lambda out: digit.evaluate_probe(stages["prior"], codes, epochs=1, out=out, **how),
        "evaluate_stability": lambda out: digit.evaluate_stability(
            chain.images, stages["vqgan"], num=4, noise_only=True, out=out, **how
        ),
        "convert": lambda out: digit.convert(str(FIXTURES / "stage1_uncond.pt"), out),
        "convert_official": lambda out: digit.convert_official("base", out, files=str(root)),
        "evaluate_projection": lambda out: digit.evaluate_projection(out=out, **how),
    }  # fmt: skip


WRITING = [
    name.removeprefix("digit.") for name in PUBLIC if "out" in hints_of(PUBLIC[name]) and name.count(".") == 1
]
ELSEWHERE = {"train_recipe"}  # is one of the others


def test_every_verb_that_writes_is_called_here(verbs):
    assert set(verbs) == set(WRITING) - ELSEWHERE


@pytest.mark.parametrize("name", sorted(set(WRITING) - ELSEWHERE))
def test_a_place_that_cannot_be_is_found_before_the_work(verbs, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    for out in ("file", "file/below", Path("file/below/deep")):
        with pytest.raises(DigitError, match="file is a file: choose another out"):
            verbs[name](out)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert "saved" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["train_prior", "compose", "sample", "evaluate_stability"])
def test_texts_lists_and_arrays_do_what_paths_tuples_and_numbers_do(verbs, name, tmp_path):
    record = verbs[name](str(tmp_path / "out"))
    assert any((tmp_path / "out").iterdir()) and record.get("out", tmp_path / "out") == tmp_path / "out"
    if name == "sample":
        assert [row["class"] for row in digit.info(record["out"])["samples"]] == ["red", "green"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"labels": ["pink"]}, "unknown label 'pink'"),
        ({"labels": [3]}, "label 3 is out of range"),
        ({"labels": "red"}, "labels: give a list"),
        ({"labels": [0, 1, 2]}, "labels names 3 classes for 2 pictures"),
        ({"seeds": [5, 5], "num": None}, "seeds .*a seed stands there twice"),
        ({"seeds": 3, "num": None}, "seeds: give a text or a list, not 3"),
        ({"seeds": [-1], "num": None}, "seeds: -1 is out of bounds"),
        ({"renderer": "masked", "passes": 99}, "passes .* give 1 to 16"),
        ({"guidance": 2.0, "unconditional": True}, "guidance needs classes"),
        ({"temperature": 1e-39}, "temperature is 1e-39"),
        ({"cache_bits": 8}, "leave cache_bits at 16"),
        ({"prefix_from": "x", "prefix": 99}, "prefix 99: pictures of this model have 16 codes"),
        ({"prefix": 2}, "prefix_from and prefix go together"),
        ({"npz": "x.np"}, "npz x.np: name a file that ends in"),
        ({"device": "cuda"}, "device cuda: there is no such GPU here"),
        ({"batch": 0}, "batch: 0 is out of bounds"),
    ],
)
def test_what_cannot_be_drawn_is_found_before_a_folder_is_made(chain, given, words, tmp_path):
    how = {"num": 2, "device": "cpu", "out": tmp_path / "out", **given}
    with pytest.raises(DigitError, match=words) as error:
        digit.sample(chain.root / "model", **how)
    assert "--" not in str(error.value) and not list(tmp_path.iterdir())


def test_a_pipeline_refuses_before_it_draws(chain):
    pipeline, heard = digit.DigitPipeline.from_pretrained(str(chain.root / "model")), []
    wrong_ones = (
        {"renderer": "masked", "steps": 99},
        {"prefix": [[0], [99]], "batch_size": 1},
        {"seeds": [0, 1], "prefix": np.zeros((1, 3), np.int64)},
        {"labels": ["red", "pink"]},
        {"top_k": -1},
        {"guidance": 2.0, "unconditional": True},
    )
    for given in wrong_ones:
        with pytest.raises(DigitError):
            pipeline(**{"seeds": [0, 1], **given}, progress=heard.append)
    assert not heard


def test_what_comes_back_is_a_plain_tensor(chain):
    pipeline = digit.DigitPipeline.from_pretrained(chain.root / "model")
    drawn = pipeline(["red", 0], seeds=np.array([3, 4]))
    codes = drawn.codes.numpy().astype(np.uint16)
    vectors = pipeline.tokenizer.features(drawn.pixels).flatten(0, 1)
    clusters = kmeans.fit(vectors.numpy(), np.int64(4))
    found = {
        torch.uint8: (drawn.pixels, pipeline.decode(codes)),
        torch.int64: (
            *(drawn.codes, drawn.vq_codes, pipeline.encode(drawn.pixels.numpy()), clusters.counts),
            *(pipeline.tokenizer.encode(drawn.pixels), pipeline.vqgan.encode(drawn.pixels)),
            *(pipeline.prior.sample((3, 4), ["red", 0]), pipeline.renderer.sample(codes, [3, 4])),
            *(pipeline.renderer_masked.sample(codes, range(2)), kmeans.assign(vectors, clusters.centroids)),
        ),
        torch.float32: (clusters.centroids, pipeline.tokenizer.vectors(codes), vectors),
    }
    for dtype, tensors in found.items():
        for tensor in tensors:
            assert type(tensor) is torch.Tensor and tensor.dtype is dtype and tensor.device.type == "cpu"
            assert not tensor.requires_grad and not tensor.is_inference()
    assert torch.equal(
        pipeline.prior.sample([3, 4], ["red", 0]), pipeline.prior.sample([3, 4], torch.tensor([2, 0]))
    )
