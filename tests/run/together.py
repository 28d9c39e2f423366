"""Command lines in several processes at once, all forked from one that has imported everything.

`python together.py PLAN OUT`: the plan is JSON, a list of entries that run one after another; OUT gets
[code, standard output, standard error] of each process in ENTRY-PROCESS.json. Starting Python anew for each
would take minutes. An entry has `arguments`, `processes` (how many, joined by gloo) and perhaps
  alone  true: the processes are not joined, each runs the command by itself at the same time
  kill   [rank, parts]: this process vanishes, as by SIGKILL, when it has written so many parts of codes
  flip   a file in which a byte is changed before
  hold   a folder that is locked meanwhile
  fetch  [address, cache]: in place of a command, fetch owner/name file.bin from a hub
"""

import contextlib
import io
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import torch

from digit.data import write_codes
from digit.evaluation.networks import INCEPTION, Network
from digit.locks import locked
from digit.nn.backbone import timm
from digit.run import fitting
from digit.run.evaluate import measurement
from digit.run.main import run
from digit.weights.hub import fetch

timm()  # else each process would import it by itself
write_codes.PART = fitting.BLOCK = 8


def colours(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features, logits and spatial features at no cost."""
    means = pixels.mean((2, 3))
    return means, 4 * means, pixels[:, :, :2, :2].flatten(1)


def network(spec: str, **options: Any) -> Network:
    """Any network; FID's by its name only."""
    if spec == "inception":
        return Network(INCEPTION, "0" * 64, torch.nn.Identity(), colours)
    return open_network(spec, **options)


open_network, measurement.open_network = measurement.open_network, network


def one(entry: dict[str, Any]) -> tuple[int, str, str]:
    """A command's exit code, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        if "fetch" in entry:
            address, cache = entry["fetch"]
            path, _ = fetch("owner/name", "file.bin", cache=Path(cache), endpoint=address)
            out.write(str(path))
            code = 0
        else:
            code = run(entry["arguments"])
    return code, out.getvalue(), err.getvalue()


def vanish_after(parts: int) -> None:
    """End this process, as SIGKILL would, in place of writing one part of codes more."""
    write = write_codes.write_bytes_atomic

    def counted(path: Path, data: bytes) -> None:
        nonlocal parts
        if parts == 0:
            os._exit(9)
        parts -= 1
        write(path, data)

    write_codes.write_bytes_atomic = counted


def flip(path: Path) -> None:
    """Change a byte of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def start(entry: dict[str, Any], result: Path) -> list[int]:
    """Fork the processes of an entry; their numbers."""
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        port = listening.getsockname()[1]
    children = []
    for rank in range(entry["processes"]):
        child = os.fork()
        if child:
            children.append(child)
            continue
        if not entry.get("alone"):
            os.environ |= {"WORLD_SIZE": str(entry["processes"]), "RANK": str(rank), "LOCAL_RANK": str(rank)}
            os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        if entry.get("kill", [None])[0] == rank:
            vanish_after(entry["kill"][1])
        result.with_name(f"{result.name}-{rank}.json").write_text(json.dumps(one(entry)))
        os._exit(0)
    return children


def main(plan: list[dict[str, Any]], out: Path) -> None:
    """Run the entries."""
    for number, entry in enumerate(plan):
        if "flip" in entry:
            flip(Path(entry["flip"]))
        held = locked(entry["hold"], "held already") if "hold" in entry else contextlib.nullcontext()
        with held:
            for child in start(entry, out / str(number)):
                os.waitpid(child, 0)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
