"""`digit convert official`: a model that the authors published -> one model folder for `digit sample`."""

from pathlib import Path
from typing import Any, Literal

from digit.run.options import Folder, Positional
from digit.run.table import print_table, saved


def convert_official(
    name: Positional[Literal["base", "base_400", "base_cond", "base_cond_400", "large", "large_cond"]],
    out: Folder,
    *,
    encoder: Path | None = None,
    copies: bool = False,
    files: Folder | None = None,
    cache: Folder | None = None,
    endpoint: str | None = None,
    stored_as: Literal["auto", "float32", "float16", "int8"] = "auto",
) -> dict[str, Any]:
    """Fetch a published model, check it, and write it as one model folder that `digit sample` opens.

    Every file's size and sha256 are checked; an interrupted fetch goes on when the command is repeated. See
    docs/checkpoints.md for the files, their licences and what they differ in from the paper.

    Example: digit convert official base_cond --out runs/base_cond

    Args:
        name: which one: base or large, with cond by class, with 400 the ones trained for 400 epochs.
        out: folder for the model.
        encoder: DINOv2's own file, or an encoder that `digit convert` wrote, in place of the copy in the
            checkpoint, which is rounded to float16; it must agree with the copy.
        copies: take centroids and VQGAN from the rounded copies in the checkpoints too, as the authors'
            sampling does, and fetch the checkpoints only.
        files: a folder with the published files, under their paths on the hub or the ends of these; nothing
            is fetched then.
        cache: folder of the hub's cache, where there is room for 3 to 9 GB; the hub's usual one if left out.
        endpoint: address of a mirror of the Hugging Face hub.
        stored_as: how weights lie on disk; auto takes float16 for parts that lose nothing by it.
    """
    from digit.weights.official import OFFICIAL
    from digit.weights.official_model import convert_model

    options = {"encoder": encoder, "copies": copies, "files": files, "cache": cache, "endpoint": endpoint}
    made = convert_model(OFFICIAL[name], Path(out), name=name, stored_as=stored_as, **options)
    print_table(
        f"{name}, {made['parameters']:,} parameters; published: FID {made['published']['FID']}, "
        f"IS {made['published']['IS']} ({made['published']['where']})",
        ["parameters", "stored as", "id"],
        {part: [row["parameters"], row["stored_as"], row["id"][:12]] for part, row in made["parts"].items()},
    )
    print(f"draw with it: {made['sample']}")
    saved(out)
    return made
