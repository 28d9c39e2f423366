"""The 1000 classes of ImageNet-1k, in the order of their folders: WordNet ids and English names."""

from digit.nn.backbone import timm

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
    """An English name a class, in the same order: WordNet's first one, no two alike in any capitals."""
    info = timm().data.ImageNetInfo("imagenet-1k")
    return [_NAMES.get(id) or info.label_name_to_description(id).split(", ")[0] for id in imagenet_ids()]
