"""A model that the authors published -> one model folder: files fetched and checked, every part converted."""

import shlex
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from digit.errors import DigitError
from digit.features import Encoder
from digit.files import atomic_folder
from digit.nn.backbone import timm
from digit.nn.sampling import SamplerConfig
from digit.prior import Prior
from digit.progress import progress
from digit.renderer import Renderer
from digit.renderer_masked import MaskedRenderer
from digit.tokenizer import Tokenizer, TokenizerConfig
from digit.weights.artifact import kind_of, save
from digit.weights.conversion import check_tokenizer, check_vqgan, open_encoder, tokenizer_copy, vqgan_copy
from digit.weights.fairseq import convert_checkpoint
from digit.weights.foreign import read
from digit.weights.model_folder import PipelineSampling, finish
from digit.weights.official import Checked, OfficialFile, OfficialModel, download
from digit.weights.storage import StoredAs, lossless
from digit.weights.vqgan_files import convert_vqgan

Storage = Literal["auto", "float32", "float16", "int8"]
Found = dict[OfficialFile, Checked]

# The first English name of these is also another class's, or differs from it only in capitals.
_NAMES = {
    "n02012849": "crane (bird)",
    "n03126707": "crane (machine)",
    "n02113186": "Cardigan Welsh corgi",
    "n03710637": "maillot (tights)",
    "n03710721": "tank suit",
}


def imagenet_ids() -> list[str]:
    """The WordNet ids, sorted, which is the order of the data set's folders: class 0 is n01440764."""
    return list(timm().data.ImageNetInfo("imagenet-1k").label_names())


def imagenet_names() -> list[str]:
    """An English name per class, in the same order: WordNet's first one, no two alike in any capitals."""
    info = timm().data.ImageNetInfo("imagenet-1k")
    return [_NAMES.get(id) or info.label_name_to_description(id).split(", ")[0] for id in imagenet_ids()]


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
    if encoder is not None and not encoder.exists():  # gigabytes would be fetched before it is read
        raise DigitError(f"--encoder {encoder} does not exist: check the path")
    wanted = [model.prior, model.renderer] + ([] if copies else [model.centroids, model.vqgan])
    found = {file: download(file, files=files, cache=cache, endpoint=endpoint) for file in wanted}
    parts: dict[str, dict[str, Any]] = {}
    with atomic_folder(out) as folder, progress("convert", 4) as advance:

        def keep(module: nn.Module, source: OfficialFile, about: Any = None, **settings: Any) -> str:
            """Save one part with the file it came from, and note it in `parts`; its id."""
            weights, part = dict(module.named_parameters()), kind_of(module)
            storage: StoredAs = lossless(weights) if stored_as == "auto" else stored_as
            origin = {"model": name, "repo": source.repo, "file": source.path, "sha256": found[source].sha256}
            extra = {**(about or {}), "converted_from": origin}
            identity = save(module, folder / part, stored_as=storage, extra=extra, **settings)
            count = sum(weight.numel() for weight in weights.values())
            parts[part] = {"id": identity, "parameters": count, "stored_as": storage}
            advance(1)
            return identity

        tokenizer, made_of, classes = _prior_and_tokenizer(model, found, encoder, keep, copies=copies)
        _renderer_and_vqgan(model, found, tokenizer, made_of, keep, copies=copies)
        prior = SamplerConfig(top_k=model.top_k)
        sampling = PipelineSampling(prior, prior, renderer=model.renderer_sampling)
        finish(folder, list(parts), classes=imagenet_names() if classes else (), sampling=sampling)
    published = model.published
    return {
        "model": out,
        "parameters": sum(part["parameters"] for part in parts.values()),
        "parts": parts,
        "files": {
            file.path: {"sha256": at.sha256, "checked_against": at.against, "bytes": at.path.stat().st_size}
            for file, at in found.items()
        },
        "published": {"FID": published.fid, "IS": published.inception_score, "where": published.where},
        "sample": f"digit sample {shlex.quote(str(out))}"
        + (" --labels 'golden retriever'" if classes else ""),
    }


def _prior_and_tokenizer(
    model: OfficialModel, found: Found, encoder: Path | None, keep: Callable[..., str], *, copies: bool
) -> tuple[Tokenizer, dict[str, str], list[str] | None]:
    """Save both; the tokenizer, the ids of what the renderer was trained with, and the prior's classes."""
    where = str(found[model.prior].path)
    content = read(found[model.prior].path)
    tokenizer = _tokenizer(content, where, model, encoder, None if copies else found[model.centroids])
    about = {"size": model.image_size, "encoder": encoder.name if encoder else model.prior.path}
    made_of = {"tokenizer": keep(tokenizer, model.prior if copies else model.centroids, about)}
    prior: Any = _of((Prior,), convert_checkpoint(content, where=where), where)
    classes = imagenet_ids() if prior.config.classes == len(imagenet_ids()) else None
    keep(prior, model.prior, lineage=made_of, classes=classes)
    return tokenizer, made_of, classes


def _renderer_and_vqgan(
    model: OfficialModel,
    found: Found,
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
    renderer = _of((Renderer, MaskedRenderer), convert_checkpoint(content, where=where), where)
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
    network: Encoder = copy.encoder
    if encoder is not None:
        there = copy.encoder.config
        how: dict[str, Any] = {"block": there.block, "norm": there.norm, "image_size": there.image_size}
        network = open_encoder(encoder, position_rule="reference", heads=model.encoder_heads, **how)
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


def _of(kinds: tuple[type[nn.Module], ...], module: nn.Module, where: str) -> nn.Module:
    if not isinstance(module, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise DigitError(f"{where} holds a {type(module).__name__} where a {names} is needed")
    return module
