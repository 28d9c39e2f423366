"""pixels -> scalar: a ViT learns from two views and small crops of each picture, against its slow average.

Three terms. Global: MoCo v3's contrast (arXiv:2104.02057) or DINO's cross-entropy (arXiv:2104.14294) between
views, also from small crops, which makes a few patches say what the whole picture is. Patches: iBOT's masked
prediction (arXiv:2111.07832), extended to visible patches, which keeps a token about its own place and makes
it cluster. KoLeo, which spreads the pictures (arXiv:2304.07193), is optional.
"""

import copy
import math
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from cifar10.augment import ViewConfig, augment
from cifar10.heads import Prototypes, projector
from cifar10.losses import balanced, contrast, masked_mean, prediction, spread
from cifar10.vit import ViT, ViTConfig
from jaxtyping import Bool, Float
from torch import Tensor, nn

from digit.nn.batch import PixelBatch


@dataclass(frozen=True)
class SelfSupervisionConfig:
    """Everything that the loss reads."""

    steps: int  # of the whole training, which the pace of the slow average follows
    vit: ViTConfig = field(default_factory=ViTConfig)  # the student, and its slow average
    view: ViewConfig = field(default_factory=ViewConfig)  # the two; the second is solarised with p = 0.2
    crops: int = 4  # small views of each picture
    crop: ViewConfig = field(default_factory=lambda: ViewConfig(size=16, scale=(0.1, 0.5)))  # a small view
    objective: Literal["mocov3", "dino"] = "mocov3"  # the global term
    pool: Literal["mean", "cls"] = "mean"  # what the global term reads: mean of patches, or class token
    temperature: float = 0.2  # of the contrast
    patch_weight: float = 0.5  # of the patch term, 0 for none
    visible_weight: float = 0.5  # of visible beside masked patches, inside the patch term
    mask: tuple[float, float] = (0.1, 0.6)  # share of masked patches, in one of a picture's two views
    prototypes: int = 2048  # of the patch term, and of DINO's
    teacher_temperature: float = 0.04  # of the slow average's softmax over prototypes
    spread_weight: float = 0.0  # of KoLeo
    momentum: float = 0.99  # of the slow average at the start; 1 at the end


class SelfSupervision(nn.Module):
    """The stage: `loss(batch)` trains `student`; `teacher`, its slow average, is what is exported."""

    step: Tensor

    def __init__(self, config: SelfSupervisionConfig) -> None:
        """Student and teacher start equal."""
        super().__init__()
        self.config = config
        width = config.vit.width
        self.student = ViT(config.vit)
        if config.objective == "mocov3":
            self.head: nn.Module = projector(width, 2048, 256, layers=3)
            self.predictor: nn.Module = projector(256, 2048, 256, layers=2)
        else:
            self.head, self.predictor = Prototypes(width, 1024, 256, config.prototypes), nn.Identity()
        self.patch_head = Prototypes(width, 1024, 256, config.prototypes)
        self.patch_head.requires_grad_(config.patch_weight > 0)
        self.teacher, self.teacher_head, self.teacher_patch_head = (
            copy.deepcopy(module).requires_grad_(False)
            for module in (self.student, self.head, self.patch_head)
        )
        self.register_buffer("step", torch.zeros(()))
        self.metrics: dict[str, Tensor] = {}
        self.augment = augment
        self._compiled = False

    @property
    def encoder(self) -> ViT:
        """What is exported and measured."""
        return self.teacher

    def compile_parts(self) -> None:
        """Compile the networks and the augmentations, once; their shapes never change."""
        if not self._compiled:
            for module in (
                self.student,
                self.head,
                self.patch_head,
                self.teacher,
                self.teacher_head,
                self.teacher_patch_head,
            ):
                module.compile(dynamic=False)
            self.augment = torch.compile(augment, dynamic=False)
            self._compiled = True

    def loss(self, batch: PixelBatch) -> Float[Tensor, ""]:
        """The weighted sum of the terms; in train mode the teacher first moves towards the student."""
        config, pixels = self.config, batch.pixels
        b = len(pixels)
        if self.training:
            self._follow()
        with torch.no_grad():
            second = replace(config.view, solarize=0.2)
            views = torch.cat((self.augment(pixels, config.view), self.augment(pixels, second)))
            # Nobody predicts a masked patch where there is no patch term.
            mask = self._mask(b) if config.patch_weight else None
            teacher_tokens = self.teacher(views)
            teacher_global = self.teacher_head(self._pool(teacher_tokens)).float().chunk(2)
        tokens = self.student(views, mask)
        pooled = self._pool(tokens)
        student_global = list(self.predictor(self.head(pooled)).float().chunk(2))
        if config.crops:
            student_global += self._crops(pixels)
        self.metrics = {}
        with torch.autocast(pixels.device.type, enabled=False):
            total = self._global(student_global, list(teacher_global))
            if config.spread_weight:
                total = total + config.spread_weight * (
                    spread(pooled[:b].float()) + spread(pooled[b:].float())
                )
        if mask is not None:
            part = slice(b // 2, b + b // 2)  # the masked ones: see _mask
            total = total + config.patch_weight * self._patch(tokens[part], teacher_tokens[part], mask[part])
        return total

    def _pool(self, tokens: Tensor) -> Tensor:
        return tokens[:, 1:].mean(1) if self.config.pool == "mean" else tokens[:, 0]

    def _crops(self, pixels: Tensor) -> list[Tensor]:
        config = self.config
        small, grid = config.crop.size // config.vit.patch_size, config.vit.grid
        views = torch.cat([self.augment(pixels, config.crop) for _ in range(config.crops)])
        # One window of places for all small views of a step, so that every learned position is used by them.
        top, left = torch.randint(grid - small + 1, (2,), device=pixels.device)
        rows = torch.arange(small, device=pixels.device)
        places = ((top + rows)[:, None] * grid + (left + rows)[None]).flatten()
        pooled = self._pool(self.student(views, None, places))
        return list(self.predictor(self.head(pooled)).float().chunk(config.crops))

    def _mask(self, b: int) -> Bool[Tensor, "v n"]:
        """Blobs of masked patches: in the second half's first view, in the first half's second view.

        The counts are the same at every step (evenly spread over config.mask), so no shape depends on a draw.
        """
        grid, device = self.config.vit.grid, self.step.device
        n = grid * grid
        share = torch.zeros(2 * b, device=device)
        masked = 2 * (b // 2)
        share[b // 2 : b // 2 + masked] = torch.linspace(*self.config.mask, masked, device=device)
        # Smooth noise: its largest places form blobs, as iBOT's blocks, yet with an exact count.
        noise = F.interpolate(
            torch.rand(2 * b, 1, grid // 2, grid // 2, device=device), (grid, grid), mode="bilinear"
        )
        noise = noise.flatten(1) + 0.1 * torch.rand(2 * b, n, device=device)
        rank = noise.argsort(1).argsort(1)
        return rank < (share * n).round()[:, None]

    def _global(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """The mean over pairs of a student's and a teacher's other view; large and small count the same."""
        large, small = [], []
        for other, goal in enumerate(teacher):
            if self.config.objective == "dino":
                goal = balanced(goal, self.config.teacher_temperature)
            for number, guess in enumerate(student):
                if number == other:
                    continue
                if self.config.objective == "dino":
                    value = prediction(guess, goal).mean()
                else:
                    value, found = contrast(guess, goal, self.config.temperature)
                    self.metrics["matched"] = (
                        (found == torch.arange(len(found), device=found.device)).float().mean()
                    )
                (large if number < 2 else small).append(value)
        total = torch.stack(large).mean()
        if small:
            total = (total + torch.stack(small).mean()) / 2
        self.metrics["global"] = total.detach()
        return total

    def _patch(self, tokens: Tensor, teacher_tokens: Tensor, mask: Tensor) -> Tensor:
        """The masked picture's patches predict the assignments of the whole picture's, by the teacher."""
        with torch.no_grad():
            scores = self.teacher_patch_head(teacher_tokens[:, 1:]).float()
            goal = balanced(scores.flatten(0, 1), self.config.teacher_temperature).view_as(scores)
            # Bits that a patch's target leaves open: 0 is a hard assignment, log2(prototypes) says nothing.
            self.metrics["target_bits"] = -(goal * (goal + 1e-9).log2()).sum(-1).mean()
        values = prediction(self.patch_head(tokens[:, 1:]).float(), goal)
        masked, visible = masked_mean(values, mask), masked_mean(values, ~mask)
        self.metrics["masked"], self.metrics["visible"] = masked.detach(), visible.detach()
        return masked + self.config.visible_weight * visible

    @torch.no_grad()
    def _follow(self) -> None:
        """teacher <- momentum * teacher + (1 - momentum) * student, the momentum rising to 1 on a cosine."""
        done = (self.step / self.config.steps).clamp(max=1)
        away = (1 - self.config.momentum) * (torch.cos(math.pi * done) + 1) / 2
        self.step += 1
        pairs = (
            (self.teacher, self.student),
            (self.teacher_head, self.head),
            (self.teacher_patch_head, self.patch_head),
        )
        for slow, fast in pairs:
            slow_tensors = list(slow.parameters())
            gap = torch._foreach_sub(list(fast.parameters()), slow_tensors)
            torch._foreach_mul_(gap, away)
            torch._foreach_add_(slow_tensors, gap)
