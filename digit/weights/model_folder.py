"""A model on disk: a folder of artifacts, one a part, and a config.json that names them and how to draw."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from digit.bounds import Count, Guidance, Weight
from digit.calls import check_fields
from digit.entries import Text, entries
from digit.errors import DigitError, LineageError, check_lineage
from digit.files import clean_up, make_folder, read_json, write_json_atomic
from digit.locks import locked
from digit.nn.sampling import DRAW, SamplerConfig
from digit.printing import listed
from digit.weights.artifact import CONFIG, MODEL, artifact_of, describe, load, save, verify
from digit.weights.card import write_beside
from digit.weights.storage import StoredAs, from_dict

BUNDLED = "cifar10"  # the model that comes with the package
PARTS = ("prior", "renderer", "renderer_masked", "renderer_flow", "vqgan", "tokenizer")
BY_VQ_CODES = {"renderer", "renderer_masked"}  # parts that draw VQ codes, which a VQGAN decodes
_TYPES: dict[str, Any] = {  # of what the config.json holds
    "sampling": dict[str, Any],
    "parts": dict[str, Text],
    "classes": list[Text],
    "licence": Text | None,
    "datasets": list[Text] | None,
}


@dataclass(frozen=True)
class PipelineSampling:
    """How a pipeline draws unless told otherwise."""

    prior: SamplerConfig = field(default_factory=SamplerConfig)  # with labels
    prior_unconditional: SamplerConfig = field(default_factory=SamplerConfig)  # without labels
    renderer: SamplerConfig = field(default_factory=SamplerConfig)  # the autoregressive renderer
    masked: SamplerConfig = field(default_factory=SamplerConfig)  # the masked renderer
    masked_steps: Count = 8  # its passes
    masked_noise: Weight = 4.5  # weight of its Gumbel noise on confidence
    flow_steps: Count | None = None  # passes of the flow renderer; None: as its own settings say
    flow_guidance: Guidance | None = None  # weight of what codes and class change; 1 is none; None: likewise
    draw: str | None = DRAW  # the rule that these settings were made for; None: older than this field

    def __post_init__(self) -> None:
        """Fail at construction with the field's name."""
        check_fields(self)


class Model(NamedTuple):
    """What a folder holds, opened."""

    parts: dict[str, Any]  # modules by the names in PARTS
    classes: list[str]
    sampling: PipelineSampling


def locate(path_or_name: str | Path | None, revision: str | None = None) -> Path:
    """The folder of a model: one on this disk, one bundled with the package, or one fetched from the hub.

    On the hub it is owner/name, or owner/name@revision, which `revision` says as well.

    Raises:
        DigitError: there is no such model, or the hub does not answer.
    """
    name = str(path_or_name or BUNDLED)
    models = Path(str(resources.files("digit"))) / "models"
    here = Path(name) if Path(name).is_dir() or "/" in name else models / name
    if here.is_dir():
        if revision is not None:
            raise DigitError(f"{here} is a folder here, and revision names one of the hub: leave it out")
        return here
    if revision is not None:
        if "@" in name:
            raise DigitError(f"{name} names a revision, and revision another one: give one of them")
        name = f"{name}@{revision}"
    if name.count("/") == 1 and not name.startswith((".", "/")):
        return _fetched(*name.partition("@")[::2])
    known = sorted(path.parent.name for path in models.glob("*/config.json"))
    raise DigitError(f"no model {name}: give a folder, or one of the bundled models ({', '.join(known)})")


def _fetched(repository: str, revision: str) -> Path:
    """The folder in the hub's cache of a model or artifact, whose own files alone are fetched."""
    from digit.weights.hub import fetch

    if revision in (".", ".."):
        raise DigitError(f"{revision} is no revision on the hub: give a branch, a tag or a commit")
    folder = fetch(repository, CONFIG, revision=revision or None, newest=True)[0].parent
    config = read_json(folder / CONFIG)
    parts = config.get("parts") if isinstance(config, dict) else None
    names = [part for part in PARTS if part in parts] if isinstance(parts, dict) else []
    files = [f"{part}/{file}" for part in names for file in (CONFIG, MODEL)] or [MODEL]
    for file in files:
        fetch(repository, file, revision=folder.name)
    return folder


def part_of(name: str | Path, kind: str, *, hub: bool = False) -> Path:
    """The folder of an artifact of this kind: of itself, or of a model that has it as a part.

    A model may also be one that comes with the package, by its name, or with `hub` one there (see `locate`).

    Raises:
        DigitError: there is no such model, or it has no such part.
    """
    here = Path(name).is_dir() or not (hub or "/" not in str(name))
    folder = Path(name) if here else locate(name)
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else None
    if not isinstance(config, dict) or config.get("kind") != "pipeline":
        return folder
    parts = read_config(folder)["parts"]
    if kind not in parts:
        raise DigitError(f"the model {name} has no {kind}: it has {listed(sorted(parts))}")
    return folder / kind


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a pipeline, checked to be one; DigitError if it is absent, damaged or another."""
    path = folder / "config.json"
    if not path.is_file():
        raise DigitError(f"{folder} has no config.json: it is no pipeline; compose one with `digit compose`")
    config = read_json(path)
    if not isinstance(config, dict) or config.get("kind") != "pipeline":
        kind = config.get("kind") if isinstance(config, dict) else None
        raise DigitError(f"{folder} is a {kind}, not a pipeline: compose one with `digit compose`")
    entries(config, _TYPES, where=path, remedy="restore it")
    parts = config["parts"]
    unknown = set(parts) - set(PARTS)
    if unknown or config.get("format") != 1:
        raise DigitError(
            f"{folder} was written by a newer digit ({listed(sorted(unknown))}): update the package"
        )
    if (absent := lacking(parts)) is not None:
        raise DigitError(f"{path} names no {absent}, without which nothing is drawn: restore it")
    return config


def open_model(
    folder: Path, *, device: torch.device | str = "cpu", parts: Sequence[str] | None = None
) -> Model:
    """The parts of a folder as modules on `device`; of parts that `parts` leaves out the files are checked.

    The prior is opened in any case, and the VQGAN unless a flow renderer is the only renderer among `parts`.

    Raises:
        DigitError: no model, a file of it is missing or damaged, or an unknown part.
        LineageError: a part is not the one the model was saved with, or the parts do not belong together.
    """
    config = read_config(folder)
    own = {"draw": None, **config["sampling"]}
    sampling = from_dict(PipelineSampling, own, where=f"{folder / 'config.json'}: sampling")
    if unknown := set(parts or ()) - set(PARTS):
        raise DigitError(f"no parts {listed(sorted(unknown))}: choose from {', '.join(PARTS)}")
    wanted = {"prior", *(config["parts"] if parts is None else parts)}
    if wanted & BY_VQ_CODES or "renderer_flow" not in wanted & set(config["parts"]):
        wanted.add("vqgan")
    modules: dict[str, Any] = {}
    artifacts: dict[str, dict[str, Any]] = {}
    for name, identity in config["parts"].items():
        if name in wanted:
            modules[name] = load(folder / name, kind=name, device=device)
            artifacts[name] = artifact_of(modules[name])
        else:
            artifacts[name] = verify(folder / name, kind=name)
        if artifacts[name]["id"] != identity:
            raise LineageError(
                f"{folder / name} is not the {name} this pipeline was saved with: restore that folder"
            )
    check_parts(artifacts)
    known, named = modules["prior"].config.classes, len(config["classes"])
    if known and named not in (0, known):
        raise DigitError(
            f"{folder / 'config.json'} names {named:,} classes, its prior has {known:,}: restore it"
        )
    return Model(modules, config["classes"], sampling)


def save_model(
    path: str | Path,
    parts: Mapping[str, nn.Module],
    *,
    classes: Sequence[str],
    sampling: PipelineSampling,
    stored_as: StoredAs = "float32",
    licence: str | None = None,
    datasets: Sequence[str] = (),
) -> None:
    """Write modules that were loaded from artifacts, each into a folder of its name, and the config.json.

    DigitError where the folder cannot be written, or another process is just writing there.
    """
    folder = Path(path)
    make_folder(folder)
    with locked(
        folder, f"another process is writing a model into {folder}: wait, or choose --out", again=True
    ):
        clean_up(folder)
        for name, module in parts.items():
            there = artifact_of(module)
            save(
                module,
                folder / name,
                lineage=there["lineage"],
                classes=there.get("classes"),
                stored_as=stored_as,
                extra=there.get("extra"),
                id=there["id"],
            )
        told = {"licence": licence, "datasets": datasets}
        finish(folder, list(parts), classes=classes, sampling=sampling, **told)


def finish(
    path: str | Path,
    parts: Sequence[str],
    *,
    classes: Sequence[str],
    sampling: PipelineSampling,
    licence: str | None = None,
    datasets: Sequence[str] = (),
) -> None:
    """Make a model of a folder whose parts are saved in it already, each under its name: its config.json.

    It keeps the `licence` of what was trained and the `datasets`, where they are stated, for the card that is
    written beside it, as a pipeline for diffusers is. For
    models too large to hold all parts in memory at once; the tensors are not read again.

    Raises:
        DigitError: a part that is no whole artifact, or parts that draw nothing together.
        LineageError: the parts were not made from each other.
    """
    folder = Path(path)
    if unknown := set(parts) - set(PARTS):
        raise DigitError(f"no parts {listed(sorted(unknown))}: choose from {', '.join(PARTS)}")
    if (absent := lacking(parts)) is not None:
        raise DigitError(f"{folder} has the parts {listed(parts)}: a pipeline needs {absent}")
    artifacts = {name: describe(folder / name) for name in PARTS if name in parts}
    check_parts(artifacts)
    config: dict[str, Any] = {
        "kind": "pipeline",
        "format": 1,
        "classes": list(classes),
        "sampling": asdict(sampling),
        "parts": {name: artifact["id"] for name, artifact in artifacts.items()},
    }
    config |= {"licence": licence} if licence is not None else {}
    config |= {"datasets": list(datasets)} if datasets else {}
    write_json_atomic(folder / "config.json", config, checksum=True)
    write_beside(folder, config, artifacts)


def lacking(parts: Collection[str]) -> str | None:
    """What parts, by their names, lack to make pictures; None where they lack nothing."""
    if "prior" not in parts:
        return "prior"
    if BY_VQ_CODES & set(parts) and "vqgan" not in parts:
        return "vqgan, which decodes what the autoregressive and the masked renderer draw"
    return None if {"vqgan", "renderer_flow"} & set(parts) else "vqgan or renderer_flow"


def check_parts(artifacts: Mapping[str, Mapping[str, Any]]) -> None:
    """LineageError unless each part, by its config.json, was made with the parts beside it.

    What draws by class has the prior's classes.
    """
    ids = {name: artifact["id"] for name, artifact in artifacts.items()}
    for name, artifact in artifacts.items():
        check_lineage(f"the {name}", artifact.get("lineage", {}), "the parts beside it", ids)
        for other, beside in artifacts.items():  # what made their codes need not be a part
            check_lineage(
                f"the {name}", artifact.get("lineage", {}), f"the {other}", beside.get("lineage", {})
            )
        if name != "prior" and artifact.get("config", {}).get("classes") and "prior" in artifacts:
            _check_classes(name, artifact, artifacts["prior"])


def _check_classes(name: str, artifact: Mapping[str, Any], prior: Mapping[str, Any]) -> None:
    """LineageError unless a renderer by class has the classes of the prior, or can do without."""
    theirs, own = artifact["config"]["classes"], prior["config"].get("classes", 0)
    if not own and artifact["config"].get("label_dropout") == 0:
        raise LineageError(
            f"the {name} was trained with a class for every picture, and the prior knows none: take a prior "
            "of classes, or train the renderer with --label-dropout above 0"
        )
    if own and theirs != own:
        raise LineageError(
            f"the {name} knows {theirs} classes, the prior {own}: train both on codes of the same classes"
        )
    for i, (here, there) in enumerate(zip(artifact["classes"], prior["classes"], strict=False)):
        if own and here != there:
            raise LineageError(
                f"class {i} is {here!r} to the {name} and {there!r} to the prior: train both on codes of the "
                "same classes"
            )
