"""class probabilities, labels -> accuracy: do pictures generated for a class look like it to a classifier?"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from digit.errors import DigitError


def class_accuracy(probabilities: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> float:
    """Share of pictures, in [0, 1], whose largest probability is their label's; logits serve as well.

    Raises DigitError if there are no pictures or a label is not in 0 .. c - 1.
    """
    if len(labels) == 0:
        raise DigitError("the class accuracy of no pictures is not defined: give pictures to measure")
    classes = probabilities.shape[1]
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise DigitError(
            f"labels must be 0 to {classes - 1} for this classifier: use one trained on these classes"
        )
    return float((probabilities.argmax(1) == labels.to(probabilities.device)).double().mean())


def class_accuracies(probabilities: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> Float[Tensor, " c"]:
    """The same share for each class by itself; NaN for a class that no picture has."""
    classes = probabilities.shape[1]
    labels = labels.to(probabilities.device)
    right = (probabilities.argmax(1) == labels).double()
    seen = torch.bincount(labels, minlength=classes)
    return torch.bincount(labels, weights=right, minlength=classes) / seen
