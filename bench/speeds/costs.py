"""The largest costs of each hot path, from its profile, and why they stay."""

from speeds.results import Results, Row, percent, table

# path -> (kernels in the order of the profile that the reason is about, the reason). A profile whose largest
# kernel is another one needs another reason: then the page cannot be written.
REASONS = {
    "prior": (
        "_attend",
        "every cached key and value is read once a position: memory bandwidth is the ceiling, and only fewer"
        " bytes make it faster, as caches of 8 bits do",
    ),
    "prior, one image": (
        "_few_rows",
        "each code reads all the weights once, in one launch a matrix, which loads its weights while the one"
        " before it still runs; what stays is that a launch waits for all of the one before, then for that"
        " one's few numbers. One launch for all matrices, with barriers between them, was tried and was"
        " slower. Chained launches overlap, so these times add up to more than the clock's",
    ),
    "autoregressive renderer": (
        "_attend",
        "as in the prior, with caches that are three times as full on average",
    ),
    "masked renderer": (
        "_many_rows",
        "every step passes all positions through all layers, since the prefix sees the codes that change:"
        " products in one order of sums, which with a GELU or a residual stay behind cuBLAS's",
    ),
    "masked renderer, one image": (
        "_many_rows",
        "the rows of one image are too few for all multiprocessors; the gaps between the graph's many short"
        " kernels, and what the host does before and after them, are the rest of the clock's time",
    ),
    "tokenizer": (
        "nvjet",
        "the four products of each block, at widths that a GPU of this size does not fill as it does a square"
        " of 8192; exact codes add the search (`_scan`), and float32 products for the few vectors that it"
        " leaves open",
    ),
    "K-means": (
        "_scan",
        "the distances themselves; then the sums of each code's vectors in float64, the vectors' lengths"
        " once a fit, and float32 products for the vectors whose centroids float16 cannot tell apart",
    ),
    "training, 219M": (
        "nvjet",
        "each product forward has two backward, and their rate is that of large products less what these"
        " sizes leave idle; the kernels between them (`_backward`, `_forward`, `_join`) move data at nearly"
        " the rate of a copy",
    ),
    "training, 732M": (
        "nvjet",
        "the same with a larger share of products, as they grow with the width's square",
    ),
    "VQGAN decode": (
        "",
        "convolutions at the full side of the picture",
    ),
}


def costs(results: Results) -> list[str]:
    """A row a path: device time, the kernels that take most of it, and the reason."""
    rows = []
    for path, (milliseconds, kernels) in profiles(results).items():
        wanted, reason = REASONS[path]
        if wanted not in kernels[0][0]:
            raise ValueError(
                f"the largest kernel of {path} is {kernels[0][0]}: write its reason in {__file__}"
            )
        largest = ", ".join(f"{_short(name)} {percent(share)}" for name, share in kernels[:4] if share > 0.01)
        rows.append([path, f"{milliseconds:.1f}", largest, reason])
    return table(["path", "ms on the device", "of it", "why the largest stays"], rows)


def profiles(results: Results) -> dict[str, tuple[float, list[tuple[str, float]]]]:
    """Path -> milliseconds and (kernel, share) in falling order."""
    found = {}
    for row in results.files["sampler"].get("rows", []):
        if "kernels" in row:
            shares = [(name, each["share"]) for name, each in row["kernels"].items()]
            path = row["name"].removeprefix("profile of ")
            found[path] = row["device_milliseconds"], joined(shares)
    tables = {
        "tokenizer": results.files["tokenizer"].get("profile", {}).get("digit"),
        "K-means": results.files["kmeans"].get("profile", {}).get("fit of two iterations"),
        "VQGAN decode": results.files["vqgan"].get("profile", {}).get("decode"),
    }
    for path, rows in tables.items():
        if isinstance(rows, list):
            found[path] = _listed(rows, "kernel")
    rows = (("training, 219M", "base, 512"), ("training, 732M", "large, 128"))
    for path, name in rows:
        row = results.training(name)
        if row and "kernels" in row:
            found[path] = _listed(row["kernels"], "name")
    return found


def _listed(rows: list[Row], key: str) -> tuple[float, list[tuple[str, float]]]:
    """Of rows with milliseconds and share."""
    total = rows[0]["ms"] / rows[0]["share"]
    return total, joined([(row[key], row["share"]) for row in rows])


def joined(shares: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Kernels of cuBLAS and of cuDNN's attention under one name each: they differ by tile only."""
    sums: dict[str, float] = {}
    for name, share in shares:
        for start, kind in (("nvjet", "products (nvjet)"), ("cudnn_generated", "attention (cuDNN)")):
            if name.startswith(start):
                name = kind
        sums[name] = sums.get(name, 0.0) + share
    return sorted(sums.items(), key=lambda each: -each[1])


def _short(name: str) -> str:
    """A kernel's name without its template arguments."""
    if "ffma" in name:
        return "float32 products (ffma)"
    return f"`{name}`" if name.startswith("_") else name.split("<")[0].split("::")[-1][:40]
