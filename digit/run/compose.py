"""`digit compose`: trained stages -> one model folder that `digit sample` opens."""

from pathlib import Path
from typing import Any, Literal

from digit.calls import checked
from digit.run.options import File, Folder
from digit.run.table import print_table, saved


@checked
def compose(
    prior: Folder,
    out: Folder,
    *,
    vqgan: Folder | None = None,
    renderer: Folder | None = None,
    renderer_masked: Folder | None = None,
    renderer_flow: Folder | None = None,
    tokenizer: Folder | None = None,
    sampling: File | None = None,
    stored_as: Literal["float32", "float16", "int8"] = "float32",
) -> dict[str, Any]:
    """Join trained stages into one model folder; stages that do not belong together are refused.

    Each may also be a model that has it, such as the bundled one by its name.

    Example: digit compose --prior runs/prior --renderer runs/renderer --vqgan runs/vqgan --out runs/model
    Example: digit compose --prior runs/prior --renderer-flow runs/flow --out runs/model

    Args:
        prior: artifact of `digit train prior`.
        out: folder for the model.
        vqgan: artifact of `digit train vqgan`; a flow renderer alone needs none.
        renderer: artifact of `digit train renderer`; without a renderer the prior must be one over VQ codes.
        renderer_masked: artifact of `digit train renderer --masked`.
        renderer_flow: artifact of `digit train renderer --flow`, which then draws unless told otherwise.
        tokenizer: artifact of `digit fit`, if the model should also encode pictures.
        sampling: JSON file of how the model draws by default, as `sampling` in a model's config.json.
        stored_as: how matrices lie on disk; int8 keeps one scale per row and is a quarter of float32.
    """
    out = Path(out)
    from digit.data.classes import different
    from digit.files import read_json
    from digit.pipeline import DigitPipeline
    from digit.progress import say
    from digit.run.claim import claim, nothing_left
    from digit.weights.artifact import artifact_of, load
    from digit.weights.model_folder import PipelineSampling, part_of
    from digit.weights.official_model import imagenet_ids, imagenet_names
    from digit.weights.storage import from_dict, to_dict

    settings = from_dict(
        PipelineSampling, {} if sampling is None else read_json(sampling), where=str(sampling)
    )
    first: Any = load(part_of(prior, "prior"), kind="prior")
    given = {"vqgan": vqgan, "renderer": renderer, "renderer_masked": renderer_masked}
    given |= {"renderer_flow": renderer_flow, "tokenizer": tokenizer}
    parts: dict[str, Any] = {
        name: load(part_of(path, name), kind=name) for name, path in given.items() if path is not None
    }
    classes = artifact_of(first).get("classes") or []
    for name, part in parts.items():
        theirs = artifact_of(part).get("classes") or []
        others = [name for name in theirs if name not in classes]
        if classes and others:
            say(f"the {name} also saw pictures of {different(others)}, which the prior does not know")
    if classes == imagenet_ids():  # folder names: people would rather say the class's own
        classes = imagenet_names()
    modules = {"prior": first, **parts}
    made_of: dict[str, Any] = {name: artifact_of(module)["id"] for name, module in modules.items()}
    made_of = {**dict.fromkeys(given), **made_of, "sampling": to_dict(settings), "stored_as": stored_as}
    claimed = claim(out, "compose", made_of)
    if claimed.record is not None:
        nothing_left(out)
        return {**claimed.record, "out": out, "model": out}
    pipeline = DigitPipeline(first, **parts, classes=classes, sampling=settings)
    with claimed.alone():
        with claimed.begun():
            pipeline.save_pretrained(out, stored_as=stored_as)
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 1e6
        record = {
            "out": out,
            "model": out,
            "megabytes": size,
            "classes": classes,
            "renderers": pipeline.renderers,
        }
        claimed.finish(record, ["config.json", *modules])
    print_table(
        f"model of {size:.3g} MB, {len(classes)} classes; draw with it: digit sample {out}",
        ["weights", "id"],
        {
            name: [sum(weight.numel() for weight in module.parameters()), artifact_of(module)["id"][:12]]
            for name, module in modules.items()
        },
    )
    saved(out)
    return record
