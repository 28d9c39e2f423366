"""`digit convert official`: a model that the authors published -> one model folder for `digit sample`."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import Tensor, nn

from digit.data.imagenet import imagenet_ids, imagenet_names
from digit.errors import DigitError
from digit.features import Encoder
from digit.files import atomic_path
from digit.prior import Prior
from digit.progress import progress
from digit.renderer import Renderer
from digit.renderer_masked import MaskedRenderer
from digit.tokenizer import Tokenizer, TokenizerConfig
from digit.weights.artifact import kind_of, load, save
from digit.weights.fairseq import convert_checkpoint
from digit.weights.fairseq_copies import check_tokenizer, check_vqgan, tokenizer_copy, vqgan_copy
from digit.weights.foreign import read
from digit.weights.model_folder import PipelineSampling, finish
from digit.weights.official import OFFICIAL, Checked, OfficialFile, OfficialModel, download
from digit.weights.storage import StoredAs, lossless
from digit.weights.vit import convert_vit
from digit.weights.vqgan_files import convert_vqgan

Name = Literal["base", "base_400", "base_cond", "base_cond_400", "large", "large_cond"]
Storage = Literal["auto", "float32", "float16", "int8"]


def convert_official(
    name: Annotated[Name, tyro.conf.Positional],
    out: Path,
    *,
    encoder: Path | None = None,
    copies: bool = False,
    files: Path | None = None,
    cache: Path | None = None,
    endpoint: str | None = None,
    stored_as: Storage = "auto",
) -> dict[str, Any]:
    """Fetch a published model, check it, and write it as one model folder that `digit sample` opens.

    Every file's size and sha256 are checked; an interrupted fetch goes on when the command is repeated. See
    docs/checkpoints.md for the files, their licences and what they differ in from the paper.

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
    options = {"encoder": encoder, "copies": copies, "files": files, "cache": cache, "endpoint": endpoint}
    return convert_model(OFFICIAL[name], out, name=name, stored_as=stored_as, **options)


def convert_model(
    model: OfficialModel,
    out: Path,
    *,
    name: str,
    encoder: Path | None = None,
    copies: bool = False,
    files: Path | None = None,
    cache: Path | None = None,
    endpoint: str | None = None,
    stored_as: Storage = "auto",
) -> dict[str, Any]:
    """The same for any row of files; see `convert_official`.

    One checkpoint is open at a time, mapped from the disk; `out` is whole or absent.

    Raises:
        DigitError: `out` exists, or a file cannot be had, is not the published one, or does not convert.
        LineageError: centroids, encoder or VQGAN that the checkpoints were not trained with.
    """
    if out.exists():
        raise DigitError(f"{out} exists already: choose another --out or delete it")
    wanted = [model.prior, model.renderer] + ([] if copies else [model.centroids, model.vqgan])
    found = {
        file: download(file, files=files, cache=cache, endpoint=endpoint, progress=progress)
        for file in wanted
    }
    parts: dict[str, dict[str, Any]] = {}

    def keep(module: nn.Module, source: OfficialFile, **settings: Any) -> str:
        """Save one part; its id."""
        weights = dict(module.named_parameters())
        storage: StoredAs = lossless(weights) if stored_as == "auto" else stored_as
        origin = {"model": name, "repo": source.repo, "file": source.path, "sha256": found[source].sha256}
        extra = {**settings.pop("extra", {}), "converted_from": origin}
        part = kind_of(module)
        identity = save(module, folder / part, stored_as=storage, extra=extra, **settings)
        parts[part] = {
            "id": identity,
            "parameters": sum(weight.numel() for weight in weights.values()),
            "stored_as": storage,
        }
        advance(1)
        return identity

    with atomic_path(out) as folder, progress("convert", 4) as advance:
        where = str(found[model.prior].path)
        content = read(found[model.prior].path)
        centroids = None if copies else found[model.centroids]
        tokenizer = _tokenizer(content, where, model, encoder, centroids)
        of = model.prior if copies else model.centroids
        about = {"size": model.image_size, "encoder": encoder.name if encoder else model.prior.path}
        made_of = {"tokenizer": keep(tokenizer, of, extra=about)}
        prior: Any = _of((Prior,), convert_checkpoint(content, where=where), where)
        conditional = prior.config.classes == len(imagenet_ids())
        keep(prior, model.prior, lineage=made_of, classes=imagenet_ids() if conditional else None)
        del prior, content

        where = str(found[model.renderer].path)
        content = read(found[model.renderer].path)
        check_tokenizer(content, tokenizer, where=where)
        del tokenizer
        if copies:
            vqgan = vqgan_copy(content, where=where)
            made_of["vqgan"] = keep(vqgan, model.renderer)
        else:
            path = found[model.vqgan].path
            vqgan = convert_vqgan(read(path), where=str(path), image_size=model.image_size)
            check_vqgan(content, vqgan, where=where)
            made_of["vqgan"] = keep(vqgan, model.vqgan)
        del vqgan
        renderer: Any = _of((Renderer, MaskedRenderer), convert_checkpoint(content, where=where), where)
        keep(renderer, model.renderer, lineage=made_of)
        del renderer, content
        sampling = PipelineSampling(
            prior=model.prior_sampling,
            prior_unconditional=model.prior_sampling,
            renderer=model.renderer_sampling,
            masked_steps=8,
        )
        finish(folder, list(parts), classes=imagenet_names() if conditional else (), sampling=sampling)
    return {
        "model": out,
        "parameters": sum(part["parameters"] for part in parts.values()),
        "parts": parts,
        "files": {file.path: _row(there) for file, there in found.items()},
        "published": {
            "FID": model.published.fid,
            "IS": model.published.inception_score,
            "where": model.published.where,
        },
        "sample": f"digit sample {shlex.quote(str(out))}"
        + (" --labels 'golden retriever'" if conditional else ""),
    }


def _tokenizer(
    content: Any, where: str, model: OfficialModel, encoder: Path | None, centroids: Checked | None
) -> Tokenizer:
    """The checkpoint's tokenizer: with the centroids of their own file and the encoder given, if any."""
    copy = tokenizer_copy(content, where=where, encoder_heads=model.encoder_heads)
    if encoder is None and centroids is None:
        return copy
    table: Tensor = copy.centroids
    if centroids is not None:
        table = read(centroids.path)
        if not isinstance(table, Tensor) or table.shape != copy.centroids.shape:
            shape = list(table.shape) if isinstance(table, Tensor) else "no"
            raise DigitError(
                f"{centroids.path} holds {shape} centroids, {where} was trained with "
                f"{list(copy.centroids.shape)}: give the file that belongs to it"
            )
    network: Encoder = copy.encoder if encoder is None else _encoder(encoder, copy.encoder, model)
    ours, theirs = asdict(network.config), asdict(copy.encoder.config)
    if other := [f"{key} {ours[key]} for {theirs[key]}" for key in theirs if ours[key] != theirs[key]]:
        raise DigitError(
            f"{encoder} has other settings than the checkpoint's encoder ({', '.join(other)}): give the file "
            "that its authors published"
        )
    config = TokenizerConfig(encoder=network.config, codes=len(table))
    tokenizer = Tokenizer(config, encoder=network, centroids=table.to(torch.float32)).eval()
    check_tokenizer(content, tokenizer, where=where)
    return tokenizer


def _encoder(path: Path, copy: Encoder, model: OfficialModel) -> Encoder:
    if path.is_dir():
        loaded: Any = load(path, kind="encoder")
        return loaded
    there = copy.config
    return convert_vit(
        read(path),
        where=str(path),
        block=there.block,
        norm=there.norm,
        image_size=there.image_size,
        position_rule="reference",
        heads=model.encoder_heads,
    )


def _of(kinds: tuple[type[nn.Module], ...], module: nn.Module, where: str) -> nn.Module:
    if not isinstance(module, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise DigitError(f"{where} holds a {type(module).__name__} where a {names} is needed")
    return module


def _row(file: Checked) -> dict[str, Any]:
    return {"sha256": file.sha256, "checked_against": file.against, "bytes": file.path.stat().st_size}
