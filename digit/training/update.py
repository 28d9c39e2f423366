"""One update of a stage, and all that must be kept between two of them."""

import contextlib
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from digit.distributed import add_up, any_of, gather, is_main, share, world_size
from digit.entries import entries
from digit.errors import DigitError, first_line
from digit.fast import usable
from digit.fast.training import use
from digit.nn.batch import rows, split
from digit.training import checkpoint
from digit.training.average import Untrained, WeightAverage
from digit.training.config import OptimizerConfig, TrainConfig
from digit.training.flops import flops_per_sample, peak_flops
from digit.training.optimizer import build, learning_rate, prepare
from digit.training.parallel import Parallel, blocks
from digit.training.shards import full, load_parts, local

# Settings whose change makes a resumed run another run, as the optimizer's; the others may change freely.
TRAJECTORY = ("batch", "micro_batch", "clip", "ema", "precision", "seed", "compile")


_KEPT: dict[str, Any] = {  # what `Updater.state` has always told
    "config": dict[str, Any],
    "seconds": float,
    **dict.fromkeys(("duties", "losses", "norms"), list[Any]),
}
ADVICE = "resume with a lower learning rate, a longer warm-up or precision fp32"


class Updater:
    """A stage with its optimizer and average; `update(batch)` does not wait for the device."""

    def __init__(self, stage: nn.Module, config: TrainConfig, device: torch.device) -> None:
        """Move the stage to `device` and prepare it for training; nothing is read from disk."""
        bf16 = config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")
        self.stage, self.config, self.device = stage.train(), config, device
        self._parallel = Parallel(stage, device, sharded=config.sharded, bf16=bf16)
        self.optimizer = build(stage, config.optimizer)
        self.average = None if config.ema is None else WeightAverage(stage, config.ema)
        self.trainable = [parameter for parameter in stage.parameters() if parameter.requires_grad]
        self.names = {parameter: name for name, parameter in stage.named_parameters()}
        self.compiles = config.compile and usable(device)  # a CPU would wait for minutes
        self.kernels: bool | None = None  # whether blocks train on kernels; None: nobody had the choice yet
        self.flops: float | None = None  # per sample, once `count` has been asked and could tell
        self.step = 0  # finished updates
        self.seconds = 0.0  # training time in earlier processes
        self.duties: list[str] = []  # measurements due at this step and not done yet
        self.busy = False  # inside an update, where nothing may be saved
        self.losses: list[float] = []  # since the last log line, one an update that was not skipped
        self.norms: list[float] = []  # likewise, of the whole gradient before clipping
        self.skipped = 0  # updates in all whose loss or gradient was not finite
        self.streak = 0  # of them, the latest in a row
        self._pending: list[Tensor] = []  # (loss, norm) still on the device
        self._autocast = {"device_type": device.type, "dtype": torch.bfloat16, "enabled": bf16}
        peak = peak_flops(device) if bf16 else None
        self._peak = None if peak is None else peak * world_size()
        # A fused optimizer multiplies by the factor of clipping on its way: one pass over all gradients less.
        self._clips_itself = bool(self.optimizer.defaults.get("fused"))
        self._untrained = Untrained(stage)

    @property
    def sharded(self) -> bool:
        """Whether this process holds a part of each tensor only."""
        return self._parallel.sharded

    @property
    def lr(self) -> float:
        """The learning rate of the latest update."""
        return learning_rate(max(0, self.step - 1), self.config.optimizer, self.config.steps)

    def update(self, batch: Any) -> None:
        """One update; DigitError if the batch has not the number of samples that the settings say."""
        count, here = rows(batch), share(self.config.batch, "training: batch")
        if count != here.stop - here.start:
            among = f" among {world_size()} processes" if world_size() > 1 else ""
            raise DigitError(
                f"data({self.step}) gave {count} samples where batch is {self.config.batch}{among}: "
                "make them agree"
            )
        self.busy = True
        prepare(self.optimizer, self.config.optimizer, step=self.step, total=self.config.steps)
        self.optimizer.zero_grad(set_to_none=True)
        self._untrained.keep()
        self._parallel.begin()
        parts: list[Tensor] = []
        row = here.start
        micro_batches = split(batch, self.config.micro_batch)
        for number, (part, weight) in enumerate(micro_batches, start=1):
            # Randomness is a function of the update and of the rows: measuring, resuming and another number
            # of processes change nothing.
            seed_all(self.config.seed, self.step, row, device=self.device)
            row += rows(part)
            with self._parallel.accumulating(last=number == len(micro_batches)):
                with torch.autocast(**self._autocast):
                    loss = self._parallel.loss(part)
                loss = loss if weight == 1.0 else loss * weight
                loss.backward()
            parts.append(loss.detach().float())
        loss = torch.stack(parts).sum() / world_size()
        add_up(loss)
        gradients = [parameter.grad for parameter in self.trainable if parameter.grad is not None]
        self._apply(loss, self._parallel.norm(gradients), gradients)
        self.busy = False

    def _apply(self, loss: Tensor, norm: Tensor, gradients: list[Tensor]) -> None:
        """Clip and step, unless loss or norm is not finite: then all but counters is as before the update."""
        self.step += 1
        self._pending.append(torch.stack([loss, norm]))
        skipped = (~torch.isfinite(loss + norm)).float()
        optimizer: Any = self.optimizer
        fused = optimizer.defaults.get("fused")  # leaves everything as it is where its `found_inf` is 1
        if fused:
            optimizer.found_inf = skipped
        elif skipped:
            self._untrained.put_back()
            return
        clip: float | None = self.config.clip
        if clip is not None and self._clips_itself:
            optimizer.grad_scale = ((norm + 1e-6) / clip).clamp(min=1.0)  # gradients are divided by it
        elif clip is not None:
            factor = (clip / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_([local(gradient) for gradient in gradients], factor)
        optimizer.step()
        if fused:
            self._untrained.put_back(skipped)
        if self.average:
            self.average.update(self.step, skipped if fused else None)

    def count(self, batch: Any) -> None:
        """Learn from a batch how many floating-point operations a sample takes; nothing is computed."""
        self.flops = flops_per_sample(self._parallel.empty, batch)

    def speed(self, samples_per_second: float) -> dict[str, float]:
        """TFLOP/s in `tflops`, and as `mfu` its share of all GPUs' bf16 peak where that is known."""
        if self.flops is None:
            return {}
        flops = samples_per_second * self.flops
        return {"tflops": flops / 1e12} | ({} if self._peak is None else {"mfu": flops / self._peak})

    def read_losses(self, last_good: str) -> None:
        """Wait for the device, read its losses and count what was skipped.

        DigitError when `skips` updates in a row were; `last_good` tells where the weights before them are.
        """
        if not self._pending:
            return
        read = torch.stack(self._pending).tolist()
        self._pending.clear()
        for step, (loss, norm) in enumerate(read, start=self.step - len(read) + 1):
            if math.isfinite(loss + norm):
                self.streak = 0
                self.losses.append(loss)
                self.norms.append(norm)
                continue
            self.skipped += 1
            self.streak += 1
            if self.streak >= self.config.skips:
                raise DigitError(
                    f"training diverged at update {step} (loss {loss}, gradient norm {norm}), the last of "
                    f"{self.streak} in a row to be skipped; {last_good}: {ADVICE}"
                )

    def check_weights(self, last_good: str) -> None:
        """DigitError, in all processes, if a weight is not finite: such a state must not be saved.

        Not every loss tells: a batch may not use the row of a table that is not finite.
        """
        finite = torch.stack([local(parameter.detach()).isfinite().all() for parameter in self.trainable])
        if any_of(not bool(finite.all())):
            raise DigitError(
                f"training diverged: some weights are not finite after update {self.step}; "
                f"{last_good}: {ADVICE}"
            )

    def take_means(self) -> dict[str, float]:
        """Loss and norm, on average, since the last call, and if any were `skipped`, how many in all."""
        means = {
            name: sum(values) / len(values) if values else math.nan
            for name, values in (("loss", self.losses), ("grad_norm", self.norms))
        }
        self.losses, self.norms = [], []
        return means | ({"skipped": self.skipped} if self.skipped else {})

    def metrics(self) -> dict[str, float]:
        """The stage's own `metrics` of its latest batch, where it has them, and the peak of GPU memory."""
        own = getattr(self.stage, "metrics", None)
        values = {name: float(value) for name, value in own.items()} if isinstance(own, Mapping) else {}
        if world_size() > 1:
            everyones = gather(values)
            values = {name: sum(each[name] for each in everyones) / world_size() for name in values}
        if self.device.type == "cuda":
            values["memory_gb"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        return values

    def accelerate(self, until: contextlib.ExitStack) -> list[str]:
        """Until `until` ends, updates run in the fastest way here; a sentence for each part that cannot be.

        A run that began without kernels goes on without them, as they draw other dropout masks.
        """
        kernels = self.compiles and self.kernels is not False
        kernels = kernels and any(not block.pre for block in blocks(self.stage))
        bf16: bool = self._autocast["enabled"]
        reason = use(self.stage, self.device, bf16=bf16, sharded=self.sharded, kernels=kernels)
        if not self.compiles:
            wanted = self.config.compile and self.device.type == "cuda"
            return ["neither compiled nor on kernels: Triton is not installed"] if wanted else []
        until.enter_context(self.compiled())
        if not kernels:
            return []
        self.kernels = reason is None
        return [] if reason is None else [f"compiled, without training kernels: {reason}"]

    @contextlib.contextmanager
    def compiled(self) -> Iterator[None]:
        """Inside, updates run compiled; what the compiler cannot take runs as it is, with its warning."""
        import torch._dynamo  # slow to import, and needed only here
        import torch._functorch.config

        # DDP would have the compiler cut the graph at each bucket of gradients, which it cannot where a graph
        # has autograd functions of its own.
        # The gradient's code is made with the loss's, in this thread, which a signal can leave; by default
        # the thread that computes gradients on a GPU would make it.
        early = torch._functorch.config.patch(force_non_lazy_backward_lowering=True)
        with early, torch._dynamo.config.patch(suppress_errors=True, optimize_ddp=False):
            self._parallel.compile()
            yield

    @contextlib.contextmanager
    def measuring(self) -> Iterator[nn.Module]:
        """Inside, the stage, or a whole copy of a sharded one: averaged weights, eval mode, no gradients."""
        # Nothing runs compiled: each other batch size would be compiled for half a minute.
        eager = torch.compiler.set_stance("force_eager") if self.compiles else contextlib.nullcontext()
        with self._averaged(), eager, torch.no_grad():
            self.stage.eval()
            try:
                yield self._parallel.whole()
            finally:
                self.stage.train()

    def _averaged(self) -> contextlib.AbstractContextManager[None]:
        return self.average.applied() if self.average else contextlib.nullcontext()

    def take_average(self) -> None:
        """Give the stage the averaged weights for good."""
        if self.average:
            self.average.give()

    def whole_tensors(self) -> dict[str, Tensor]:
        """The state_dict with the average in its place, whole and on the CPU, in the main process; else {}.

        To be called in all processes: each tensor is gathered, and kept by the main one, before the next.
        """
        whole: dict[str, Tensor] = {}
        with self._averaged(), torch.no_grad():
            for name, tensor in self.stage.state_dict().items():
                gathered = full(tensor.detach())
                if is_main():
                    whole[name] = gathered.cpu().clone()
        return whole

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """Moments and counters of the optimizer, and the average."""
        tensors = checkpoint.optimizer_tensors(self.optimizer, self.names)
        if self.average:
            tensors |= {f"average.{name}": value for name, value in self.average.values.items()}
        return tensors

    def state(self) -> dict[str, Any]:
        """What else must be kept, with the losses since the last log line: the log too goes on."""
        return {
            "config": asdict(self.config),
            "duties": self.duties,
            "losses": self.losses,
            "norms": self.norms,
            "skipped": self.skipped,
            "streak": self.streak,
            "compiled": self.compiles,
            "kernels": self.kernels,
        }

    def restore(self, found: checkpoint.Checkpoint) -> list[str]:
        """Take up a state; sentences about settings that differ.

        DigitError if it is of another model, or of no training.
        """
        entries(found.state, _KEPT, where=found.path, remedy="delete it to go on from the state before")
        try:
            if self.sharded:
                load_parts(self.stage, found.model)
            else:
                self.stage.load_state_dict(dict(found.model))
            checkpoint.load_optimizer(self.optimizer, self.names, found.optimizer)
            stored = any(name.startswith("average.") for name in found.optimizer)
            if self.average and stored:
                self.average.load(found.optimizer, prefix="average.")
        except (RuntimeError, KeyError, ValueError) as error:
            raise DigitError(
                f"{found.path} is the state of another model ({first_line(error)}): choose another --out"
            ) from error
        if self.average and not stored:
            self.average = WeightAverage(self.stage, self.average.decay)
        self.step, self.seconds = found.step, float(found.state["seconds"])
        self.duties, self.losses, self.norms = (
            list(found.state[key]) for key in ("duties", "losses", "norms")
        )
        # Absent where states are older than the skipping.
        self.skipped, self.streak = (found.state.get(key) or 0 for key in ("skipped", "streak"))
        before, now = found.state["config"], asdict(self.config)
        # An older state lacks settings that have come since: it was trained with their defaults.
        before["optimizer"] = asdict(OptimizerConfig()) | _mapping(before.get("optimizer"))
        # What the run did, not what was allowed; older states have no word for it but the setting.
        before["compile"] = found.state.get("compiled", before.get("compile", False))
        now["compile"] = self.compiles
        self.kernels = found.state.get("kernels", before.get("kernels"))
        now["optimizer"]["betas"] = list(now["optimizer"]["betas"])  # as JSON has it
        pairs = [(name, now[name], before.get(name)) for name in TRAJECTORY]
        pairs += [(name, new, before["optimizer"].get(name)) for name, new in now["optimizer"].items()]
        return [f"{name} is {new} from here, it was {old}" for name, new, old in pairs if new != old]


def _mapping(value: Any) -> dict[str, Any]:
    """What a state says of its optimizer, which only differences are told of."""
    return value if isinstance(value, dict) else {}


def seed_all(seed: int, step: int, row: int, *, device: torch.device) -> None:
    """Seed torch's generators for the forward pass that begins at sample `row` of the batch of all processes.

    So processes with a part of the batch each draw what one process with as large micro-batches draws.
    """
    place = f"{seed}/{step}" if row == 0 else f"{seed}/{step}/{row}"
    # 64 bits that differ for each place, unlike a sum
    bits = int.from_bytes(hashlib.blake2b(place.encode(), digest_size=8).digest())
    torch.default_generator.manual_seed(bits)  # torch.manual_seed takes ten times as long
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(bits)
