"""Foreign tensors against the names and shapes that a network of theirs must have."""

from collections.abc import Mapping

from torch import Tensor

from digit.errors import DigitError

Layout = Mapping[str, tuple[int, ...]]  # the shape of every tensor, by the name it has in their file


def check_layout(tensors: Mapping[str, Tensor], layout: Layout, *, where: str) -> None:
    """DigitError, naming the file `where`, that lists every missing, unknown and wrongly shaped tensor."""
    problems = {
        "missing": [name for name in layout if name not in tensors],
        "unknown": [name for name in tensors if name not in layout],
        "of another shape": [
            f"{name} {list(tensors[name].shape)} for {list(shape)}"
            for name, shape in layout.items()
            if name in tensors and tuple(tensors[name].shape) != tuple(shape)
        ],
    }
    found = [f"{what}: {', '.join(names)}" for what, names in problems.items() if names]
    if found:
        raise DigitError(
            f"{where} is not the file it seems to be, its tensors do not fit: {'; '.join(found)}"
        )


def without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
