"""A model that the authors published -> one model folder: files fetched and checked, every part converted."""

import shlex
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

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
from digit.weights.imagenet import imagenet_ids, imagenet_names
from digit.weights.model_folder import PipelineSampling, finish
from digit.weights.official import Checked, OfficialFile, OfficialModel, download
from digit.weights.storage import StoredAs, lossless
from digit.weights.vit import convert_vit
from digit.weights.vqgan_files import convert_vqgan

Storage = Literal["auto", "float32", "float16", "int8"]


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
    """Fetch a row of files, and write one model folder of them; options as of `digit convert official`.

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
    with atomic_path(out) as folder, progress("convert", 4) as advance:
        keep = partial(_keep, folder, parts, found, advance, name=name, stored_as=stored_as)
        tokenizer, made_of, classes = _prior_and_tokenizer(model, found, encoder, keep, copies=copies)
        _renderer_and_vqgan(model, found, tokenizer, made_of, keep, copies=copies)
        sampling = PipelineSampling(
            prior=model.prior_sampling,
            prior_unconditional=model.prior_sampling,
            renderer=model.renderer_sampling,
            masked_steps=8,
        )
        finish(folder, list(parts), classes=imagenet_names() if classes else (), sampling=sampling)
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
        + (" --labels 'golden retriever'" if classes else ""),
    }


def _keep(
    folder: Path,
    parts: dict[str, dict[str, Any]],
    found: dict[OfficialFile, Checked],
    advance: Callable[[int], None],
    module: nn.Module,
    source: OfficialFile,
    *,
    name: str,
    stored_as: Storage,
    extra: dict[str, Any] | None = None,
    **settings: Any,
) -> str:
    """Save one part with the file it came from, and note it in `parts`; its id."""
    weights = dict(module.named_parameters())
    storage: StoredAs = lossless(weights) if stored_as == "auto" else stored_as
    origin = {"model": name, "repo": source.repo, "file": source.path, "sha256": found[source].sha256}
    part = kind_of(module)
    extra = {**(extra or {}), "converted_from": origin}
    identity = save(module, folder / part, stored_as=storage, extra=extra, **settings)
    count = sum(weight.numel() for weight in weights.values())
    parts[part] = {"id": identity, "parameters": count, "stored_as": storage}
    advance(1)
    return identity


def _prior_and_tokenizer(
    model: OfficialModel,
    found: dict[OfficialFile, Checked],
    encoder: Path | None,
    keep: Callable[..., str],
    *,
    copies: bool,
) -> tuple[Tokenizer, dict[str, str], list[str] | None]:
    """Save both; the tokenizer, the ids of what the renderer was trained with, and the prior's classes."""
    where = str(found[model.prior].path)
    content = read(found[model.prior].path)
    tokenizer = _tokenizer(content, where, model, encoder, None if copies else found[model.centroids])
    about = {"size": model.image_size, "encoder": encoder.name if encoder else model.prior.path}
    made_of = {"tokenizer": keep(tokenizer, model.prior if copies else model.centroids, extra=about)}
    prior: Any = _of((Prior,), convert_checkpoint(content, where=where), where)
    classes = imagenet_ids() if prior.config.classes == len(imagenet_ids()) else None
    keep(prior, model.prior, lineage=made_of, classes=classes)
    return tokenizer, made_of, classes


def _renderer_and_vqgan(
    model: OfficialModel,
    found: dict[OfficialFile, Checked],
    tokenizer: Tokenizer,
    made_of: dict[str, str],
    keep: Callable[..., str],
    *,
    copies: bool,
) -> None:
    """Save both, having checked that the renderer was trained with these."""
    where = str(found[model.renderer].path)
    content = read(found[model.renderer].path)
    check_tokenizer(content, tokenizer, where=where)
    if copies:
        vqgan = vqgan_copy(content, where=where)
    else:
        path = found[model.vqgan].path
        vqgan = convert_vqgan(read(path), where=str(path), image_size=model.image_size)
        check_vqgan(content, vqgan, where=where)
    made = {**made_of, "vqgan": keep(vqgan, model.renderer if copies else model.vqgan)}
    del vqgan
    renderer: Any = _of((Renderer, MaskedRenderer), convert_checkpoint(content, where=where), where)
    keep(renderer, model.renderer, lineage=made)


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
