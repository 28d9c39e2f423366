"""A model of digit's for diffusers: a copy of this file lies beside each as pipeline.py. digit runs neither.

    DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)("cat").images

`folder` may be owner/name on the hub. It needs the packages diffusers and digit-image.
"""

from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput  # pyright: ignore[reportMissingImports]

import digit


class DigitDiffusionPipeline(DiffusionPipeline):
    """labels -> pictures; the model's files are opened by digit, checksums and all, when they are needed."""

    def __init__(self) -> None:
        super().__init__()
        self._model: digit.DigitPipeline | None = None

    @property
    def model(self) -> digit.DigitPipeline:
        """The pipeline of digit behind it."""
        if self._model is None:
            self._model = digit.DigitPipeline.from_pretrained(self.config["_name_or_path"])
        return self._model

    def to(self, device: str | torch.device) -> "DigitDiffusionPipeline":  # pyright: ignore
        """Move the model to a device."""
        self.model.to(device)
        return self

    def __call__(
        self,
        class_labels: Any = None,
        *,
        num_images: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        **how: Any,
    ) -> ImagePipelineOutput | tuple[Any, ...]:
        """Draw pictures.

        Args:
            class_labels: names or numbers of classes, as of `digit.DigitPipeline`.
            num_images: how many.
            generator: whose seeds are the pictures'; one alone gives its seed and those that follow on it.
            output_type: "pil", "np" (values in [0, 1], channels last) or "pt" (channels first).
            return_dict: an ImagePipelineOutput; else a tuple.
            how: further settings of a call of `digit.DigitPipeline`.
        """
        if generator is not None:
            several = isinstance(generator, list)
            first = [each.initial_seed() for each in (generator if several else [generator])]
            count = num_images or (len(class_labels) if isinstance(class_labels, list | tuple) else 1)
            how["seeds"] = first if several else [first[0] + i for i in range(count)]
        drawn = self.model(class_labels, num_images=None if "seeds" in how else num_images, **how)
        images: Any = drawn.images
        if output_type != "pil":
            images = drawn.pixels.float() / 255
            images = images if output_type == "pt" else images.permute(0, 2, 3, 1).numpy()
        return ImagePipelineOutput(images=images) if return_dict else (images,)
