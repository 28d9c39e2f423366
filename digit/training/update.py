"""One update of a stage, and all that must be kept between two of them."""

import contextlib
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from digit.errors import DigitError
from digit.training import checkpoint
from digit.training.average import WeightAverage
from digit.training.batches import rows, split
from digit.training.config import TrainConfig
from digit.training.flops import flops_per_sample, peak_flops
from digit.training.optimizer import OptimizerConfig, build, learning_rate, prepare

# Settings whose change makes a resumed run another run; the others (how long, how often) may change freely.
TRAJECTORY = ("batch", "micro_batch", "optimizer", "clip", "ema", "precision", "seed")


class Updater:
    """A stage with its optimizer and average; `update(batch)` does not wait for the device."""

    def __init__(self, stage: nn.Module, config: TrainConfig, device: torch.device) -> None:
        """Move the stage to `device` and prepare it for training; nothing is read from disk."""
        self.stage = stage.to(device).train()
        self.config, self.device = config, device
        self.optimizer = build(stage, config.optimizer)
        self.average = None if config.ema is None else WeightAverage(stage, config.ema)
        self.trainable = [parameter for parameter in stage.parameters() if parameter.requires_grad]
        self.names = {parameter: name for name, parameter in stage.named_parameters()}
        self.loss: Any = stage.loss  # or its compiled form
        self.flops: float | None = None  # per sample, once `count` has been asked and could tell
        self.step = 0  # finished updates
        self.seconds = 0.0  # training time in earlier processes
        self.duties: list[str] = []  # measurements due at this step and not done yet
        self.busy = False  # inside an update, where nothing may be saved
        self.losses: list[float] = []  # since the last log line, one an update
        self.norms: list[float] = []  # likewise, of the whole gradient before clipping
        self._pending: list[Tensor] = []  # (loss, norm) still on the device
        bf16 = config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")
        self._autocast = {"device_type": device.type, "dtype": torch.bfloat16, "enabled": bf16}
        self._peak = peak_flops(device) if bf16 else None
        # A fused optimizer multiplies by the factor of clipping on its way: one pass over all gradients less.
        self._clips_itself = bool(self.optimizer.defaults.get("fused"))

    @property
    def lr(self) -> float:
        """The learning rate of the latest update."""
        return learning_rate(max(0, self.step - 1), self.config.optimizer, self.config.steps)

    def update(self, batch: Any) -> None:
        """One update; DigitError if the batch has not the number of samples that the settings say."""
        count = rows(batch)
        if count != self.config.batch:
            raise DigitError(
                f"data({self.step}) gave {count} samples where batch is {self.config.batch}: make them agree"
            )
        self.busy = True
        # Randomness is a function of the update's number: measuring or resuming changes nothing.
        seed = _seed(self.config.seed, self.step)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed takes ten times as long
        if self.device.type == "cuda":
            index = torch.cuda.current_device() if self.device.index is None else self.device.index
            torch.cuda.default_generators[index].manual_seed(seed)
        prepare(self.optimizer, self.config.optimizer, step=self.step, total=self.config.steps)
        self.optimizer.zero_grad(set_to_none=True)
        parts: list[Tensor] = []
        for part, share in split(batch, self.config.micro_batch):
            with torch.autocast(**self._autocast):
                loss = self.loss(part)
            loss = loss if share == 1.0 else loss * share
            loss.backward()
            parts.append(loss.detach().float())
        norm = self._clip()
        self.optimizer.step()
        self.step += 1
        if self.average:
            self.average.update(self.step)
        self._pending.append(torch.stack([torch.stack(parts).sum(), norm.float()]))
        self.busy = False

    def _clip(self) -> Tensor:
        """The norm of the whole gradient, which then counts as if it were at most `clip`; on the device."""
        gradients = [parameter.grad for parameter in self.trainable if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        clip: float | None = self.config.clip
        if clip is not None and self._clips_itself:
            optimizer: Any = self.optimizer  # divides gradients by its attribute `grad_scale`
            optimizer.grad_scale = ((norm.float() + 1e-6) / clip).clamp(min=1.0)
        elif clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.trainable, clip, norm)
        return norm

    def count(self, batch: Any) -> None:
        """Learn from a batch how many floating-point operations a sample takes; nothing is computed."""
        self.flops = flops_per_sample(self.stage, batch)

    def speed(self, samples_per_second: float) -> dict[str, float]:
        """TFLOP/s in `tflops`, and as `mfu` its share of the board's bf16 peak where that is known."""
        if self.flops is None:
            return {}
        flops = samples_per_second * self.flops
        return {"tflops": flops / 1e12} | ({} if self._peak is None else {"mfu": flops / self._peak})

    def read_losses(self, last_good: str) -> None:
        """Wait for the device and read its losses; DigitError at the first that is not finite."""
        if not self._pending:
            return
        read = torch.stack(self._pending).tolist()
        for step, (loss, norm) in enumerate(read, start=self.step - len(read) + 1):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise DigitError(
                    f"training diverged at update {step} (loss {loss}, gradient norm {norm}); {last_good}: "
                    "resume with a lower learning rate, a longer warm-up or precision fp32"
                )
        self.losses += [loss for loss, _ in read]
        self.norms += [norm for _, norm in read]
        self._pending.clear()

    def metrics(self) -> dict[str, float]:
        """The stage's own `metrics` of its latest batch, where it has them, and the peak of GPU memory."""
        own = getattr(self.stage, "metrics", None)
        values = {name: float(value) for name, value in own.items()} if isinstance(own, Mapping) else {}
        if self.device.type == "cuda":
            values["memory_gb"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        return values

    @contextlib.contextmanager
    def compiled(self) -> Iterator[None]:
        """Inside, updates run compiled; what the compiler cannot take runs as it is, with its warning."""
        import torch._dynamo  # slow to import, and needed only here

        stage: Any = self.stage
        with torch._dynamo.config.patch(suppress_errors=True):
            if hasattr(stage, "compile_parts"):
                stage.compile_parts()
                self.loss = stage.loss
            else:
                self.loss = torch.compile(stage.loss, dynamic=False)
            yield

    @contextlib.contextmanager
    def measuring(self) -> Iterator[nn.Module]:
        """Inside, the stage is in eval mode, has the averaged weights and makes no gradients."""
        average = self.average.applied() if self.average else contextlib.nullcontext()
        with average, self._uncompiled(), torch.no_grad():
            self.stage.eval()
            try:
                yield self.stage
            finally:
                self.stage.train()

    def _uncompiled(self) -> contextlib.AbstractContextManager[Any]:
        """Inside, nothing runs compiled: each other batch size would be compiled for half a minute."""
        if not self.config.compile:
            return contextlib.nullcontext()
        return torch.compiler.set_stance("force_eager")

    def take_average(self) -> None:
        """Give the stage the averaged weights for good."""
        if self.average:
            self.average.give()

    def model_tensors(self) -> dict[str, Tensor]:
        """The stage's state_dict, by the names it has when it is not compiled."""
        return {name.replace("_orig_mod.", ""): tensor for name, tensor in self.stage.state_dict().items()}

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """Moments and counters of the optimizer, and the average."""
        average = {
            f"average.{name}": value for name, value in (self.average.values if self.average else {}).items()
        }
        return checkpoint.optimizer_tensors(self.optimizer, self.names) | average

    def state(self) -> dict[str, Any]:
        """What else must be kept, with the losses since the last log line: the log too goes on."""
        return {
            "config": asdict(self.config),
            "duties": self.duties,
            "losses": self.losses,
            "norms": self.norms,
        }

    def restore(self, found: checkpoint.Checkpoint) -> list[str]:
        """Take up a state; sentences about settings that differ. DigitError if it is of another model."""
        try:
            self.stage.load_state_dict(found.model)
            checkpoint.load_optimizer(self.optimizer, self.names, found.optimizer)
            stored = {
                name[8:]: value for name, value in found.optimizer.items() if name.startswith("average.")
            }
            if self.average and stored:
                self.average.load(stored)
        except (RuntimeError, KeyError, ValueError) as error:
            first = str(error).splitlines()[0]
            raise DigitError(
                f"{found.path} is the state of another model ({first}): choose another --out"
            ) from error
        if self.average and not stored:
            self.average = WeightAverage(self.stage, self.average.decay)
        self.step, self.seconds = found.step, float(found.state["seconds"])
        self.duties, self.losses, self.norms = (
            list(found.state[key]) for key in ("duties", "losses", "norms")
        )
        before, now = found.state["config"], asdict(self.config)
        # An older state lacks settings that have come since: it was trained with their defaults.
        before["optimizer"] = asdict(OptimizerConfig()) | before["optimizer"]
        now["optimizer"]["betas"] = list(now["optimizer"]["betas"])  # as JSON has it
        return [
            f"{name} is {now[name]} from here, it was {before.get(name)}"
            for name in TRAJECTORY
            if before.get(name) != now[name]
        ]


def _seed(seed: int, step: int) -> int:
    """64 bits that differ for each (seed, step), unlike seed + step."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{step}".encode(), digest_size=8).digest())
