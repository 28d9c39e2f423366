"""docs/images/scaling.png: memory against pictures, an epoch's order, and speed against parameters."""

from pathlib import Path

from growing.tables import VERBS
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from digit.files import atomic_file, read_json


def draw(results: Path, path: Path) -> None:
    """Three panels."""
    figure = Figure(figsize=(15, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    memory, order, speed = figure.subplots(1, 3)
    for name, row in read_json(results / "memory.json")["results"].items():
        places = [row["pictures_1x"], row["pictures_5x"]]
        memory.plot(places, [row["megabytes_1x"], row["megabytes_5x"]], "o-", label=VERBS[name])
    memory.set(xscale="log", ylim=(0, None), xlabel="pictures", ylabel="peak resident memory, MB")
    memory.set_xticks([2000, 5000, 10_000, 20_000, 50_000])
    memory.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    memory.minorticks_off()
    memory.set_title("commands, two CPU cores (bench/memory.py)", fontsize=10)
    memory.legend(fontsize=8)

    rows = read_json(results / "growth.json")["order"]
    places = [row["pictures"] for row in rows]
    order.plot(places, [row["seconds"] for row in rows], "o-", color="tab:red", label="seconds")
    gigabytes = [row["bytes_a_picture"] * row["pictures"] / 1e9 for row in rows]
    order.plot(places, gigabytes, "s--", color="tab:blue", label="peak memory, GB")
    order.set(xscale="log", yscale="log", xlabel="pictures of an epoch", ylabel="seconds; GB")
    order.set_title("order of an epoch (bench/growth.py)", fontsize=10)
    order.legend(fontsize=8)

    recipes = read_json(results / "recipes.json")["recipes"]
    for mode, style in (("eager", "o:"), ("compiled", "o-")):
        found = [recipes[name][mode] for name in ("ablation_39m", "base", "large")]
        sizes = [row["parameters"] / 1e6 for row in found]
        shares = [100 * row["share_of_dense_bf16"] for row in found]
        speed.plot(sizes, shares, style, color="tab:green", label=f"{mode}, H200")
    train = read_json(results / "train-h100.json")["rows"]
    sizes = [recipes[name]["eager"]["parameters"] / 1e6 for name in ("base", "large")]
    shares = [100 * train[name]["mfu"] for name in ("base, 256", "large, 128")]
    speed.plot(sizes, shares, "s-", color="tab:purple", label="compiled, kernels, H100")
    speed.set(xscale="log", ylim=(0, 60), xlabel="parameters, millions", ylabel="MFU, % of 989 TFLOP/s")
    speed.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    speed.set_xticks([40, 100, 219, 400, 730])
    speed.minorticks_off()
    speed.set_title("one micro-batch (bench/recipes.py, bench/train.py)", fontsize=10)
    speed.legend(fontsize=8, loc="lower right")
    for panel in (memory, order, speed):
        panel.grid(alpha=0.3)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=100)
