"""`digit compose`: trained stages -> one model folder that `digit sample` opens."""

from pathlib import Path
from typing import Any, Literal

from digit.data.imagenet import imagenet_ids, imagenet_names
from digit.errors import DigitError
from digit.files import read_json
from digit.pipeline import DigitPipeline
from digit.weights.artifact import artifact_of, load
from digit.weights.config import from_dict
from digit.weights.model_folder import PipelineSampling


def compose(
    prior: Path,
    vqgan: Path,
    out: Path,
    *,
    renderer: Path | None = None,
    renderer_masked: Path | None = None,
    tokenizer: Path | None = None,
    sampling: Path | None = None,
    stored_as: Literal["float32", "float16", "int8"] = "float32",
) -> dict[str, Any]:
    """Join trained stages into one model folder; stages that do not belong together are refused.

    Args:
        prior: artifact of `digit train prior`.
        vqgan: artifact of `digit train vqgan`.
        out: folder for the model.
        renderer: artifact of `digit train renderer`; without a renderer the prior must be one over VQ codes.
        renderer_masked: artifact of `digit train renderer --masked`.
        tokenizer: artifact of `digit fit`, if the model should also encode pictures.
        sampling: JSON file of how the model draws by default, as `sampling` in a model's config.json.
        stored_as: how matrices lie on disk; int8 keeps one scale a row and is a quarter of float32.
    """
    if (out / "config.json").exists():
        raise DigitError(f"{out} already holds a model: choose another --out or delete it")
    settings = from_dict(
        PipelineSampling, {} if sampling is None else read_json(sampling), where=str(sampling)
    )
    first: Any = load(prior, kind="prior")
    parts: dict[str, Any] = {
        name: load(path, kind=name)
        for name, path in (
            ("renderer", renderer),
            ("renderer_masked", renderer_masked),
            ("tokenizer", tokenizer),
        )
        if path is not None
    }
    second: Any = load(vqgan, kind="vqgan")
    classes = artifact_of(first).get("classes") or []
    if classes == imagenet_ids():  # folder names: people would rather say the class's own
        classes = imagenet_names()
    pipeline = DigitPipeline(first, second, **parts, classes=classes, sampling=settings)
    pipeline.save_pretrained(out, stored_as=stored_as)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return {"model": out, "megabytes": size / 1e6, "classes": classes, "renderers": pipeline.renderers}
