"""A billion pictures on a hundred GPUs, on paper: every number out of measured speeds and stated assumptions.

`Plan` holds what is assumed, `Measured` what bench/results says. The functions give rows of tables.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from digit.data.write_codes import PART
from digit.files import read_json
from digit.prior import PriorConfig
from digit.run.recipes import RECIPES
from digit.training.estimate import EFFICIENCY, MEASURED_MFU, peak

Row = tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """The task, and assumptions that were not measured here."""

    pictures: int = 10**9
    gpus: int = 100
    gpus_of_a_host: int = 8
    host_memory: float = 512e9  # bytes, shared by a host's processes
    views: int = 4
    codes: int = 256  # of a picture, and as many VQ codes
    picture_bytes: float = 110e3  # a JPEG of about 500 x 375, as ImageNet's
    storage: float = 1e9  # bytes per second that one process reads from or writes to shared storage
    host_storage: float = 2e9  # bytes per second that one host reads from it
    network: float = 50e9  # bytes per second of a GPU to other hosts (400 Gbit/s)
    # Hours of one GPU between failures that end a job: 419 of them in 54 days on 16,384 GPUs (Llama 3,
    # arXiv:2407.21783, section 3.3.4).
    mtbf: float = 54 * 24 * 16_384 / 419
    restart: float = 600.0  # seconds from a failure to the next update: queue, loading, compiling
    epochs: int = 10
    batch: int = 8000  # a multiple of 100 GPUs
    price: float = 2.5  # of a GPU for an hour

    @property
    def process_memory(self) -> float:
        """Bytes of host memory for each process."""
        return self.host_memory / self.gpus_of_a_host

    @property
    def hosts(self) -> int:
        """Machines."""
        return math.ceil(self.gpus / self.gpus_of_a_host)


@dataclass(frozen=True)
class Measured:
    """Speeds and sizes that were measured."""

    index_bytes: float  # of memory for each picture of a zip that is open
    order_bytes: float  # of memory for each picture while an epoch's order is made
    order_seconds: dict[int, float]  # of the processor, by the number of pictures
    sha256: float  # bytes per second of a core
    decoded: float  # JPEGs a second of 16 processors beside an H200, with four views of each
    tokenized: float  # pictures per second of an H200, codes of DINOv2 ViT-B/14
    iteration: float  # seconds of a K-means iteration of 2,097,152 vectors to 8192 centroids on an H200

    @classmethod
    def read(cls, results: Path) -> "Measured":
        """From bench/results."""
        index = read_json(results / "memory.json")["results"]["index"]
        growth = read_json(results / "growth.json")
        tokenizer = read_json(results / "tokenizer-h200.json")
        kmeans = read_json(results / "kmeans-h200.json")
        added = index["pictures_5x"] - index["pictures_1x"]
        return cls(
            index_bytes=(index["megabytes_5x"] - index["megabytes_1x"]) * 1e6 / added,
            order_bytes=growth["order"][-1]["bytes_a_picture"],
            order_seconds={row["pictures"]: row["seconds"] for row in growth["order"]},
            sha256=growth["sha256_gb_per_second"] * 1e9,
            # Of one view there; what four cost more was measured on another machine.
            decoded=read_json(results / "tokenizer-jpeg-h200.json")["jpeg"]["read, decode, crop, resize"][
                "images_per_s"
            ]
            * growth["decode_per_second"]["views_4"]
            / growth["decode_per_second"]["views_1"],
            tokenized=tokenizer["codes"]["digit"]["images_per_s"],
            iteration=kmeans["iteration"]["digit float32"]["ms"] / 1e3,
        )

    def order(self, pictures: float) -> float:
        """Seconds to make an epoch's order, by n log n from the largest that was measured."""
        known = max(self.order_seconds)
        return self.order_seconds[known] * pictures * math.log(pictures) / (known * math.log(known))


def shape_of(name: str) -> PriorConfig:
    """A recipe's prior."""
    shape = RECIPES[name].model
    assert isinstance(shape, PriorConfig)
    return shape


def parameters(shape: PriorConfig) -> float:
    """Weights in matrices and tables; vectors are left out."""
    tables = 2 * shape.codes + shape.length + 2 + shape.classes
    return 12 * shape.layers * shape.width**2 + tables * shape.width


def flops(shape: PriorConfig) -> float:
    """Of one picture's loss and gradient, of causal attention the lower half."""
    products = 12 * shape.layers * shape.width**2 + shape.codes * shape.width
    return shape.length * (6 * products + 6 * shape.layers * shape.length * shape.width)


def mfu(name: str) -> float:
    """The measured share of the data sheet's rate, compiled."""
    return MEASURED_MFU["compiled"][{"base": 1, "large": 2}[name]][1]


def seconds_of(name: str, pictures: float, gpus: int) -> float:
    """Training on `pictures`, the GPUs' share of one GPU's speed as the goal has it."""
    rate = gpus * peak("H100") * mfu(name) * (EFFICIENCY if gpus > 1 else 1.0)
    return pictures * flops(shape_of(name)) / rate


def code_bytes(plan: Plan) -> float:
    """Of one kind of code in one view of every picture."""
    return plan.pictures * plan.codes * 2.0


def storage(plan: Plan) -> list[Row]:
    """What lies on disks."""
    one = code_bytes(plan)
    state = 12 * parameters(shape_of("large"))
    features = plan.pictures * plan.codes * 768 * 2.0
    return [
        ("pictures", f"{plan.picture_bytes / 1e3:.0f} kB each", size(plan.pictures * plan.picture_bytes)),
        ("one kind of code, one view", f"{plan.codes} x 2 bytes", size(one)),
        (f"both kinds, {plan.views} views", "", size(2 * plan.views * one)),
        ("labels", "4 bytes", size(4.0 * plan.pictures)),
        ("for comparison: features instead of codes", f"{plan.codes} x 768 x 2 bytes", size(features)),
        ("a state of the 732M prior", "weights, two moments", size(state)),
        ("sample for K-means, K = 8192", "256 vectors per centroid, float32", size(8192 * 256 * 768 * 4.0)),
    ]


def hours(plan: Plan, measured: Measured) -> list[Row]:
    """How long each step takes, and what it waits for."""
    encode = plan.pictures * plan.views / (measured.tokenized * plan.gpus)
    decode = plan.pictures / (measured.decoded * plan.gpus)
    read = plan.pictures * plan.picture_bytes / (plan.host_storage * plan.hosts)
    joined, clustering = 2 * plan.views * code_bytes(plan), measured.iteration
    joining = joined * (2 / plan.storage + 1 / measured.sha256)
    rows = [
        ("tokenise: read the pictures", f"{plan.host_storage / 1e9:.0f} GB/s per host", read),
        ("tokenise: decode, crop, resize", f"{measured.decoded:.0f} pictures/s a process", decode),
        (f"tokenise: encode {plan.views} views", f"{measured.tokenized:,.0f} views/s a GPU", encode),
        ("tokenise: the main process joins the parts", "read, write and hash once", joining),
        ("fit: 20 iterations of K-means", f"{clustering * 1e3:.0f} ms each, one GPU", 20 * clustering),
    ]
    for name, title in (("base", "219M"), ("large", "732M")):
        rate = f"{mfu(name):.1%} of the data sheet, {EFFICIENCY:.0%} kept"
        rows.append(
            (f"train {title}, one epoch", rate, seconds_of(name, plan.pictures, plan.gpus)),
        )
    return [(what, how, spell(seconds)) for what, how, seconds in rows]


def costs(plan: Plan) -> list[Row]:
    """Whole trainings."""
    rows = []
    for name, title in (("base", "219M"), ("large", "732M")):
        time = seconds_of(name, plan.pictures * plan.epochs, plan.gpus) / 3600
        updates = plan.pictures * plan.epochs / plan.batch
        rows.append(
            (
                title,
                f"{updates:,.0f}",
                f"{time:.0f} h",
                f"{time * plan.gpus:,.0f}",
                f"{time * plan.gpus * plan.price:,.0f}",
            )
        )
    return rows


def network(plan: Plan) -> list[Row]:
    """An update of the 732M prior beside the exchange of its gradients in float32."""
    shape = shape_of("large")
    sent = 2 * (plan.gpus - 1) / plan.gpus * 4 * parameters(shape)
    rows = []
    for each in (20, 80, 320, 1280):
        compute = each * flops(shape) / (peak("H100") * mfu("large"))
        exchange = sent / plan.network
        rows.append(
            (
                f"{each * plan.gpus:,}",
                f"{compute * 1e3:,.0f} ms",
                f"{exchange * 1e3:.0f} ms",
                f"{compute / (compute + exchange):.0%}",
            )
        )
    return rows


def restarts(plan: Plan) -> list[Row]:
    """Failures, the state, and the interval between states that loses least (Young 1974)."""
    state = 12 * parameters(shape_of("large"))
    rows = []
    for gpus in (8, plan.gpus, 1000):
        between = plan.mtbf * 3600 / gpus
        for written, how in ((state / plan.storage, "training waits"), (1.0, "written beside it")):
            interval = math.sqrt(2 * written * between)
            lost = written / interval + interval / 2 / between + plan.restart / between
            rows.append(
                (
                    f"{gpus:,}",
                    f"{between / 3600:,.0f} h",
                    how,
                    f"{written:.0f} s",
                    f"{interval / 60:.0f} min",
                    f"{lost:.2%}",
                )
            )
    return rows


def breaks(plan: Plan, measured: Measured) -> list[Row]:
    """What gives way as the set grows: where, and what it is at the plan's size."""
    memory, epochs = plan.process_memory, 4  # orders that are kept
    n = plan.pictures
    both = 2 * plan.views * plan.codes * 2  # bytes per picture
    parts = n / PART
    order = measured.order_bytes + 8 * (epochs - 1)
    rate = plan.gpus * EFFICIENCY * peak("H100") * mfu("base") / flops(shape_of("base"))
    rows = [
        (
            memory / measured.index_bytes,
            "names, sizes and offsets of all pictures in the memory of each process of `digit tokenize`",
            f"{measured.index_bytes:.0f} bytes per picture, {size(n * measured.index_bytes)}; "
            f"a process has {size(memory)}",
            "one command a group of shards (`shards-{0000..0099}.tar`), an index on disk",
        ),
        (
            100_000 * PART,
            "one folder for all parts, listed after each part to tell how many are done",
            f"{parts:,.0f} files, {parts**2 / plan.gpus:.1e} names read by each process",
            "parts in folders by number; count what was written",
        ),
        (
            max(n * 60 / measured.order(n), 1),
            "an epoch begins with a sort in every process (limit: a minute)",
            f"{spell(measured.order(n))}, as {max(measured.order_seconds):,} took "
            f"{measured.order_seconds[max(measured.order_seconds)]:.0f} s",
            "a permutation computed place by place (a Feistel network), no array at all",
        ),
        (
            3600 / (both * (2 / plan.storage + 1 / measured.sha256)),
            "one process joins and hashes the parts (limit: an hour)",
            f"{size(n * both)}: {spell(n * both * (2 / plan.storage + 1 / measured.sha256))}",
            "codes stay in shards of a million pictures, each with its checksum",
        ),
        (
            600 * measured.sha256 / both,
            "every process of a training hashes all codes first (limit: ten minutes)",
            f"{spell(n * both / measured.sha256)}, and {plan.gpus} times {size(n * both)} from storage",
            "the main process checks for all; a shard when it is first read",
        ),
        (
            memory / order,
            f"orders of {epochs} epochs in the memory of each process",
            f"{order:.0f} bytes per picture, {size(n * order)}; a process has {size(memory)}",
            "as above: no array",
        ),
        (
            0.1 * 79 * 2**30 / 8,
            "labels on each GPU (limit: a tenth of an H100's memory)",
            f"8 bytes per picture, {size(8.0 * n)}",
            "the rows of a batch only",
        ),
    ]
    rows.sort(key=lambda row: row[0])
    found = [(rounded(limit), what, here, how) for limit, what, here, how in rows]
    found.append(
        (
            "any size above memory",
            f"reads of single rows: {plan.codes * 2} bytes each, a page of 4 kB from storage",
            f"{rate:,.0f} rows/s for the 219M prior, {size(rate * 4096)}/s",
            "a local copy of the codes on each host, or rows shuffled inside blocks that are read whole",
        )
    )
    return found


def rounded(pictures: float) -> str:
    """A number of pictures to one digit."""
    power = 10 ** math.floor(math.log10(pictures))
    return f"{round(pictures / power) * power:,.0f}"


def size(count: float) -> str:
    """Bytes for people."""
    for unit, scale in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f} bytes"


def spell(seconds: float) -> str:
    """Seconds for people."""
    for unit, scale in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * scale:
            return f"{seconds / scale:.1f} {unit}"
    return f"{seconds:.1f} s"
