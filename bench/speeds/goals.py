"""One row a hot path: the value, its ceiling, what ran beside it, memory, and the goal set before."""

from dataclasses import dataclass

from speeds.results import PRIOR, Results, Row, gib, number, percent, table

RENDERER = "autoregressive renderer, top-p 0.8"
EIGHT, MASKED = ", cache of 8 bits", "masked renderer, 8 steps"
# Rows of bench/before_after.py, for paths that lost kernels of their own since their benches ran.
CODES_AGAIN = "features and codes, base, batch 512"
KMEANS_AGAIN = "K-means, an iteration of 2097152 vectors to 8192"


@dataclass(frozen=True)
class Goal:
    """A path and what it should reach."""

    path: str
    goal: float
    unit: str
    value: float | None = None  # None: never run
    share: float | None = None  # of the ceiling measured in the same run
    beside: str = ""  # the ratio to what ran beside it
    peak: float | None = None  # GiB
    least: bool = True  # the goal is a lower bound
    further: bool = False  # beyond the goals proper

    @property
    def met(self) -> bool:
        """Whether it was reached."""
        assert self.value is not None
        return self.value >= self.goal if self.least else self.value <= self.goal

    def cells(self) -> list[str]:
        """Of the table."""
        wanted = f"{'at least' if self.least else 'at most'} {number(self.goal)} {self.unit}".rstrip()
        wanted += " (further)" if self.further else ""
        if self.value is None:
            return [self.path, "not run", "", self.beside, "", wanted, "not run"]
        verdict = "yes" if self.met else f"**no**, {abs(self.value / self.goal - 1):.1%} off"
        value = f"{number(self.value)} {self.unit}".rstrip()
        return [self.path, value, percent(self.share), self.beside, gib(self.peak), wanted, verdict]


def every(results: Results) -> list[Goal]:
    """All rows."""
    return [*sampling(results), *tokenizer(results), *kmeans(results), *training(results), *others(results)]


def rivals(results: Results) -> list[str]:
    """The README's table: paths beside code that users would take instead, and those measured again."""
    again = ("prior", CODES_AGAIN, "K-means", "labels to pixels")
    rows = [row for row in every(results) if row.value is not None and not row.further]
    rows = [row for row in rows if " x " in row.beside or row.path.startswith(again)]
    cells = [row.cells() for row in rows if "float16" not in row.path]
    return table(["on one H200", "measured", "beside others' code"], [[*c[:2], c[3]] for c in cells])


def goals(results: Results) -> list[str]:
    """The table, and how many were met."""
    rows = every(results)
    run = [row for row in rows if row.value is not None]
    proper = [row for row in run if not row.further]
    met, further = sum(row.met for row in proper), [row for row in run if row.further]
    head = ["path", "measured", "of its ceiling", "beside it", "peak memory", "goal", "met"]
    return [
        (
            f"Of {len(proper)} goals that were measured {met} are met; of {len(further)} set further off,"
            f" {sum(row.met for row in further)}. Never run: {len(rows) - len(run)}."
        ),
        "",
        *table(head, [row.cells() for row in rows]),
    ]


def _llamagen(results: Results, batch: int | None = None) -> str:
    """The prior beside LlamaGen's compiled code, on one GPU: at a batch, or that code's fastest."""
    name = "LlamaGen's code, compiled"
    of_batch = (row for row in results.sampling(name) if row["batch"] == batch)
    rival = results.best(name) if batch is None else next(of_batch, None)
    if rival is None:
        return "LlamaGen's: not run since"
    ratio = rival["prior_images_per_second"] / rival["images_per_second"]
    return f"{ratio:.2f} x LlamaGen's, compiled" + (f", at batch {rival['batch']}" if batch is None else "")


def sampling(results: Results) -> list[Goal]:
    """Prior, renderers and the whole chain."""

    def best(path: str, name: str, goal: float, *, further: bool = False) -> Goal:
        row = results.best(name)
        if row is None:
            return Goal(path, goal, "img/s", further=further)
        share = row["share_of_limit"]
        # The ceiling of a row with 8-bit caches is known only where the bench counted 8-bit caches.
        share = share if share <= 1 else None
        path = f"{path}, batch {row['batch']}"
        beside = _llamagen(results) if name == PRIOR else ""
        return Goal(
            path, goal, "img/s", row["images_per_second"], share, beside, row["peak_gib"], further=further
        )

    def one(path: str, name: str, goal: float) -> Goal:
        row = next((row for row in results.sampling(name) if row["batch"] == 1), None)
        if row is None:
            return Goal(path, goal, "ms", least=False)
        beside = _llamagen(results, 1) if name == PRIOR else ""
        measured = row["milliseconds"], row["share_of_limit"], beside, row["peak_gib"]
        return Goal(path, goal, "ms", *measured, least=False)

    chain = results.best("whole chain, autoregressive, to pictures in memory")
    return [
        best("prior, 219M", PRIOR, 820),
        best("prior, 8-bit caches", PRIOR + EIGHT, 1200, further=True),
        one("prior, one image", PRIOR, 75),
        best("autoregressive renderer", RENDERER, 290),
        best("autoregressive renderer, 8-bit caches", RENDERER + EIGHT, 450, further=True),
        best("masked renderer, 8 steps", MASKED, 290),
        one("masked renderer, one image", MASKED, 8),
        Goal(
            "labels to pixels, whole chain",
            190,
            "img/s",
            chain["images_per_second"] if chain else None,
        ),
    ]


def _against(
    results: Results, path: str, file: str, section: str, *, rival: str, goal: float, further: bool = False
) -> Goal:
    """Images a second of a section's own row, beside another of its rows."""
    rows = results.section(file, section)
    if "digit" not in rows:
        return Goal(path, goal, "img/s", further=further)
    row, other = rows["digit"], rows.get(rival)
    beside = f"{row['images_per_s'] / other['images_per_s']:.2f} x {rival}" if other else ""
    measured = row["images_per_s"], row["share_of_matmul"], beside, row["peak_gib"]
    path = f"{path}, batch {row['batch']}{results.on(file)}"
    return Goal(path, goal, "img/s", *measured, further=further)


def tokenizer(results: Results) -> list[Goal]:
    """Features and codes from pixels that lie on the GPU, and JPEG files."""
    name, rival = "features and codes", "timm, compiled"
    files = results.section("jpeg", "jpeg").get("read, decode, crop, resize")
    threads = results.section("jpeg", "jpeg").get("the same on 8 threads")
    base = _against(results, f"{name}, base", "tokenizer", "codes", rival=rival, goal=11_500)
    large = _against(results, f"{name}, large", "tokenizer", "large", rival=rival, goal=3_000, further=True)
    again = results.medians("redesign").get(CODES_AGAIN)
    if again:
        base = Goal(CODES_AGAIN, 11_500, "img/s", again)
        large = Goal(f"{name}, large", 3_000, "img/s", further=True)
    return [
        base,
        large,
        Goal(
            f"JPEG files to pixels, {results.files['jpeg'].get('processors')} processors"
            + results.on("jpeg"),
            5_000,
            "img/s",
            files["images_per_s"] if files else None,
            beside=f"{files['images_per_s'] / threads['images_per_s']:.2f} times that of 8 threads"
            if files and threads
            else "",
            further=True,
        ),
    ]


def kmeans(results: Results) -> list[Goal]:
    """One Lloyd iteration of exact distances."""
    rows = results.section("kmeans", "iteration")
    row, rival = rows.get("digit float32"), rows.get("flash-kmeans")
    path = f"K-means, one iteration, distances in float32{results.on('kmeans')}"
    again = results.medians("redesign").get(KMEANS_AGAIN)
    if again:
        return [Goal(path, 60, "ms", again, least=False)]
    if row is None:
        return [Goal(path, 60, "ms", least=False)]
    beside = f"{rival['ms'] / row['ms']:.2f} x flash-kmeans" if rival else ""
    return [Goal(path, 60, "ms", row["ms"], row["share_of_matmul"], beside, row["peak_gib"], least=False)]


def training(results: Results) -> list[Goal]:
    """Tokens and operations a second, and the wait for data."""
    micros = [results.training(f"base, {micro}") for micro in (256, 512)]
    base = max(filter(None, micros), key=lambda row: row["tokens_per_second"], default=None)
    large = results.training("large, 128")
    ratios = results.files["train"].get("ratio_to_rival", {})

    def row(path: str, found: Row | None, name: str, goal: float, *, further: bool = False) -> Goal:
        if found is None:
            return Goal(path, goal, "TFLOP/s", further=further)
        micro = found["way"]["micro"]
        path = f"{path}, micro-batch {micro}, {found['tokens_per_second'] / 1e3:.0f}k tokens/s"
        beside = f"{ratios[name]:.2f} x a plain compiled GPT" if name in ratios else "not run"
        measured = found["model_tflops"], found["share_of_matmul"], beside, found["peak_gib"]
        return Goal(path, goal, "TFLOP/s", *measured, further=further)

    stall = None if base is None else 100 * base["stall"]
    return [
        row("training the prior, 219M", base, "base", 495),
        row("training the prior, 732M", large, "large", 495, further=True),
        Goal("wait for cached codes, of an update", 1, "%", stall, least=False),
    ]


def others(results: Results) -> list[Goal]:
    """VQGAN, FID and the CPU."""
    runs = results.files["fid"].get("results", {})
    fid, other = runs.get("digit, tf32"), runs.get("torch-fidelity, pictures on the device")
    sample = results.files["sample"].get("seconds", {}).get("autoregressive")
    rival = "compiled bfloat16"
    decode = _against(results, "VQGAN decode, 256 px", "vqgan", "decode", rival=rival, goal=2_000)
    if results.medians("redesign"):
        decode = Goal("VQGAN decode, 256 px", 2_000, "img/s")
    return [
        decode,
        Goal(
            "FID and IS of 50,000 images, TF32" + results.on("fid"),
            15,
            "s",
            fid["seconds"] if fid else None,
            beside=f"{other['seconds'] / fid['seconds']:.2f} x torch-fidelity's extractor on the GPU"
            if fid and other
            else "",
            least=False,
        ),
        Goal(
            "64 images of the bundled model, two CPU cores",
            20,
            "s",
            sample["median"] if sample else None,
            least=False,
        ),
        Goal(
            "the same",
            10,
            "s",
            sample["median"] if sample else None,
            least=False,
            further=True,
        ),
    ]
