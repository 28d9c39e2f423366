"""`digit convert`: a published file -> an artifact; `convert official`: a whole published model."""

from pathlib import Path
from typing import Annotated, Any, Literal

from digit.bounds import Bounds, Size
from digit.calls import checked
from digit.printing import put
from digit.run.options import File, Folder, Pixels, Positional
from digit.run.table import print_table, saved

PICTURES = 256  # side in pixels that the published tokenizers see before their encoder's own resize


@checked
def convert(
    file: Positional[File],
    out: Folder,
    *,
    part: Literal["model", "prior", "tokenizer", "vqgan"] = "model",
    encoder: Path | None = None,
    tokenizer: Folder | None = None,
    vqgan: Folder | None = None,
    encoder_heads: Size | None = None,
    block: Annotated[int, Bounds(-1024, 1023)] = -3,
    image_size: Pixels | None = None,
    position_rule: Literal["official", "reference"] | None = None,
    distance: Literal["exact", "stored", "half"] | None = None,
    stored_as: Literal["auto", "float32", "float16"] = "auto",
) -> dict[str, Any]:
    """Convert a published file to an artifact (config.json + model.safetensors) that every verb reads.

    What the file is, its sizes, heads and norms are read from its content, never from its name. Knows:
    DiGIT's fairseq checkpoints (prior, autoregressive and masked renderer, VQ-only prior, linear probe), its
    K-means tables km_*.npy (with --encoder), VQGANs of MAGE / MaskGIT and of taming-transformers, and the
    encoders DINOv2 (with and without registers), DINOv3, iBOT, MoCo v3 and MAE. Pickles are read without
    running anything in them. `digit convert official NAME` fetches and converts a whole published model.

    Example: digit convert dinov2_vitb14_reg4_pretrain.pth --out runs/encoder

    Args:
        file: the published file.
        out: folder of the new artifact.
        part: of a DiGIT checkpoint: its own model, the tokenizer or VQGAN copied in it, or a probe's prior.
        encoder: for km_*.npy: the encoder's published file, or an artifact of it.
        tokenizer: artifact that a DiGIT checkpoint belongs to; checked, and named in its lineage. If left
            out, the lineage names the checkpoint's own copy (--part tokenizer).
        vqgan: likewise, the VQGAN of a renderer or of a prior over VQ codes.
        encoder_heads: attention heads of an encoder whose width is no multiple of 64.
        block: whose output an encoder gives, from the end: -3 of 12 is the tenth block, as published.
        image_size: side in pixels: at which an encoder sees pictures (224 if left out), or of a VQGAN's
            pictures (256).
        position_rule: how an encoder's positions are resized: reference is what DiGIT's own code does
            (if left out, for its tokenizers), official what the encoder's authors do (for encoders). DINOv3
            has no table to resize.
        distance: of a tokenizer: exact in float32 (if left out), with the norms stored in a checkpoint (if
            left out, for --part tokenizer), or in half precision as the published training.
        stored_as: auto is float16 where no value changes by it, else float32.
    """
    file, out = Path(file), Path(out)
    from digit.files import sha256_file
    from digit.prior import Prior
    from digit.progress import say
    from digit.run.claim import claim, identity_of, nothing_left
    from digit.run.unused import not_used
    from digit.tensors import check_finite
    from digit.tokenizer import Tokenizer
    from digit.weights.artifact import describe, kind_of, save
    from digit.weights.conversion import convert_file
    from digit.weights.official_model import imagenet_ids
    from digit.weights.storage import StoredAs, lossless

    made_of: dict[str, Any] = {"file": identity_of(file), "part": part, "stored_as": stored_as}
    made_of |= {"encoder": identity_of(encoder), "tokenizer": identity_of(tokenizer)}
    made_of |= {"vqgan": identity_of(vqgan), "encoder_heads": encoder_heads, "block": block}
    made_of |= {"image_size": image_size, "position_rule": position_rule, "distance": distance}
    claimed = claim(out, "convert", made_of)
    if claimed.record is not None:
        nothing_left(out)
        return {**claimed.record, "out": out}
    module, lineage = convert_file(
        file,
        part=part,
        encoder=encoder,
        tokenizer=tokenizer,
        vqgan=vqgan,
        encoder_heads=encoder_heads,
        block=block,
        image_size=image_size,
        position_rule=position_rule,
        distance=distance,
    )
    check_finite(module.state_dict(), file)
    options = {"encoder": encoder, "tokenizer": tokenizer, "vqgan": vqgan, "encoder_heads": encoder_heads}
    options |= {"block": None if block == -3 else block, "image_size": image_size}
    options |= {"position_rule": position_rule, "distance": distance}
    unused = {name for name, value in options.items() if value is not None} - _used(module, part, encoder)
    if unused:
        say(not_used(sorted(unused), f"{file} is converted to a {kind_of(module)} without"))
    stored: StoredAs = lossless(dict(module.named_parameters())) if stored_as == "auto" else stored_as
    extra: dict[str, Any] = {"converted_from": {"file": file.name, "sha256": sha256_file(file)}}
    if isinstance(module, Tokenizer):
        extra["size"] = PICTURES
    known = isinstance(module, Prior) and module.config.classes == 1000  # in the order of ImageNet's folders
    classes = imagenet_ids() if known else None
    with claimed.alone():
        with claimed.begun():
            id = save(module, out, lineage=lineage, classes=classes, extra=extra, stored_as=stored)
        values = sum(tensor.numel() for tensor in module.state_dict().values())
        record = {
            "out": out,
            "kind": kind_of(module),
            "id": id,
            "lineage": lineage,
            "values": values,
            "stored_as": stored,
            "config": describe(out)["config"],
        }
        claimed.finish(record, ["config.json", "model.safetensors"])
    rows = {"id": [id[:12]], "weights": [values], "stored as": [stored]}
    rows |= {f"made with the {kind}": [other[:12]] for kind, other in lineage.items()}
    print_table(f"{kind_of(module)} of {file.name}", ["value"], rows)
    saved(out)
    return record


def _used(module: Any, part: str, encoder: Path | None) -> set[str]:
    """The options that say something about what `module` was converted from."""
    from digit.features import Encoder
    from digit.nn.linear_probe import Probe
    from digit.tokenizer import Tokenizer
    from digit.vqgan import VQGAN

    of_encoder = {"encoder_heads", "block", "image_size", "position_rule"}
    match module:
        case Encoder():
            return of_encoder
        case Tokenizer() if part == "tokenizer":
            return {"encoder_heads", "distance"}
        case Tokenizer():
            return {"encoder", "distance"} | (set() if encoder and encoder.is_dir() else of_encoder)
        case VQGAN():
            return {"image_size"} if part == "model" else set()
        case Probe():
            return set()
    return {"tokenizer", "vqgan", "encoder_heads"}  # of a DiGIT checkpoint


@checked
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
    from digit.run.claim import claim, identity_of, nothing_left
    from digit.weights.official import OFFICIAL
    from digit.weights.official_model import convert_model

    options = {"encoder": encoder, "copies": copies, "files": files, "cache": cache, "endpoint": endpoint}
    out = Path(out)
    made_of = {"name": name, "encoder": identity_of(encoder), "copies": copies, "stored_as": stored_as}
    claimed = claim(out, "convert official", made_of)
    if claimed.record is not None:
        nothing_left(out)
        return {**claimed.record, "model": out}
    made = convert_model(OFFICIAL[name], out, name=name, stored_as=stored_as, **options)
    claimed.finish(made, ["config.json", *made["parts"]])
    print_table(
        f"{name}, {made['parameters']:,} parameters; published: FID {made['published']['FID']}, "
        f"IS {made['published']['IS']} ({made['published']['where']})",
        ["parameters", "stored as", "id"],
        {part: [row["parameters"], row["stored_as"], row["id"][:12]] for part, row in made["parts"].items()},
    )
    put(f"draw with it: {made['sample']}")
    saved(out)
    return made
