"""Every kernel compiles for the GPUs it is for: the interpreter, which runs the others here, takes more."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_every_kernel_compiles_for_hopper(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, str(Path(__file__).with_name("compile_worker.py"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    launched = {
        f"{path.stem}.{name}"
        for path in (ROOT / "digit/fast/kernels").glob("*.py")
        for name in re.findall(r"^ +(_\w+)\[(?:\(|grid)", path.read_text(), re.MULTILINE)
    }
    assert set(json.loads(done.stdout)) == launched
