"""Files are opened in one place, written in one and fetched in one; whoever goes round them is found here."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "digit"

# By how a call is written: what opens, makes, moves or runs something by its name on the disk.
METHODS = {
    *("read_text", "read_bytes", "write_text", "write_bytes", "touch", "chmod", "rename"),
    *("symlink_to", "hardlink_to", "tofile"),
}
CALLS = {
    *("open", "io.open", "os.open", "os.fdopen", "codecs.open", "os.replace", "os.rename", "os.link"),
    *("os.symlink", "os.truncate", "os.mkfifo", "os.chmod", "Image.open", "PIL.Image.open", "tarfile.open"),
    *("gzip.open", "bz2.open", "lzma.open", "zipfile.ZipFile", "ZipFile", "mmap.mmap", "sqlite3.connect"),
    *("np.load", "np.save", "np.savez", "np.savez_compressed", "np.fromfile", "np.memmap", "np.loadtxt"),
    *("np.genfromtxt", "np.lib.format.open_memmap", "torch.load", "torch.save", "torch.jit.load"),
    *("torch.hub.load", "safe_open", "safetensors.safe_open", "load_file", "save_file"),
    *("safetensors.torch.load_file", "safetensors.torch.save_file", "json.load", "json.dump", "pickle.load"),
    *("tempfile.NamedTemporaryFile", "tempfile.mkstemp", "tempfile.TemporaryFile", "tempfile.mktemp"),
    *("os.system", "os.popen", "os.startfile", "urllib.request.urlopen", "urllib.request.urlretrieve"),
    *("huggingface_hub.snapshot_download", "huggingface_hub.hf_hub_download", "snapshot_download"),
    *("hf_hub_download", "FileLock", "SoftFileLock", "SummaryWriter", "runpy.run_path"),
}
MODULES = ("subprocess.", "shutil.", "os.exec", "os.spawn", "os.posix_spawn", "multiprocessing.")

# The doors themselves, and what goes by no name of a file or by one that a door gave; each with its reason.
ALLOWED = {
    ("opening.py", "open"): "the door for reading",
    ("opening.py", "os.open"): "the same",
    ("files.py", "open"): "the door for appending",
    ("files.py", "os.open"): "the door for writing: temporaries, their locks, and flushing",
    ("files.py", "os.fdopen"): "the same",
    ("files.py", ".replace"): "the temporary becomes the file",
    ("files.py", "shutil.rmtree"): "removes without following links",
    ("files.py", "tempfile.TemporaryFile"): "a look whether the disk takes anything; it has no name",
    ("locks.py", "FileLock"): "the door for locks, after a look",
    ("locks.py", "SoftFileLock"): "the same, made by O_EXCL",
    ("tensors.py", "safetensors.torch.load_file"): "by the name of an open file",
    ("tensors.py", "safetensors.safe_open"): "by the name of an open file",
    ("training/shards.py", "safetensors.safe_open"): "by the name of an open file",
    ("training/checkpoint.py", ".rename"): "a folder of our own steps aside",
    ("training/trackers.py", "SummaryWriter"): "torch's own log, only where it is asked for",
    ("run/contents.py", "safe_open"): "by the name of an open file",
    ("run/contents.py", "safetensors.safe_open"): "the import of it",
    ("weights/foreign.py", "zipfile.ZipFile"): "of an open file",
    ("weights/foreign.py", "torch.load"): "of an open file or by its name; restricted, tests/test_imports.py",
    ("weights/foreign.py", "np.load"): "by the name of an open file",
    ("weights/hub.py", ".replace"): "the whole file gets its name in the cache",
    ("weights/hub.py", ".symlink_to"): "as the hub's client links it there",
    ("weights/hub.py", "shutil.disk_usage"): "opens nothing",
    ("data/archives.py", "zipfile.ZipFile"): "of an open file",
    ("arrays.py", "np.load"): "by the name of an open file",
    ("data/decode.py", "Image.open"): "of bytes in memory, with formats=",
    ("data/loader.py", "multiprocessing.get_context"): "forks that decode; no other program",
    ("data/loader.py", "multiprocessing.parent_process"): "the same",
    ("data/loader.py", "mmap.mmap"): "memory that processes share, of no file",
    ("evaluation/selftest.py", "torch.save"): "for the other program that is compared, in a folder that goes",
    ("printing.py", "json.dump"): "to standard output",
    ("data/write_codes.py", "np.load"): "of bytes in memory",
    ("data/write_codes.py", "np.save"): "into an open file",
    ("data/write_codes.py", "np.savez"): "into memory",
    ("data/write_codes.py", "shutil.disk_usage"): "opens nothing",
    ("evaluation/pictures.py", "zipfile.ZipFile"): "of an open file",
    ("evaluation/inception.py", "urllib.request.urlopen"): "the file is bounded and compared as it comes",
    ("run/evaluate/probe_states.py", "np.memmap"): "of an open file",
    ("run/dry_run.py", "shutil.disk_usage"): "opens nothing",
    ("run/arguments.py", "shutil.get_terminal_size"): "opens nothing",
    ("run/surroundings.py", "os.open"): "/dev/null, in the place of closed standard streams",
    ("__init__.py", ".read_text"): "the package's own list of names, before anything is imported",
}


def doors(text: str) -> Iterator[str]:
    """The calls in a program that open, make, move or run something; methods with a dot before them."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):  # by another name it would not be seen
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole in CALLS or whole.startswith(MODULES):
                    yield whole
        if not isinstance(node, ast.Call):
            continue
        said = ast.unparse(node.func)
        if said in CALLS or said.startswith(MODULES):
            yield said
        elif isinstance(node.func, ast.Attribute):
            name = node.func.attr
            first = ast.unparse(node.args[0]) if node.args else ""
            texts = len(node.args) > 1 or isinstance(node.args[0] if node.args else None, ast.Constant)
            if name in METHODS or (name == "replace" and node.args and not texts and not node.keywords):
                yield f".{name}"
            elif name == "open" and (not node.args or _is_mode(node.args[0])):
                yield f".open({first})"


def _is_mode(node: ast.expr) -> bool:
    """Whether the first argument of `.open` is a mode, so that it is a path's and not an archive's."""
    return (
        isinstance(node, ast.Constant) and isinstance(node.value, str) and set(node.value) <= set("rwxab+t")
    )


FILES = sorted(path for path in ROOT.rglob("*.py") if "models" not in path.relative_to(ROOT).parts)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nobody_goes_round_the_doors(path):
    here = path.relative_to(ROOT).as_posix()
    strangers = {call for call in doors(path.read_text(encoding="utf-8")) if (here, call) not in ALLOWED}
    assert not strangers, f"use digit/opening.py to read, digit/files.py to write: {sorted(strangers)}"


def test_the_list_of_exceptions_is_as_short_as_can_be():
    used = {
        (path.relative_to(ROOT).as_posix(), call)
        for path in FILES
        for call in doors(path.read_text(encoding="utf-8"))
    }
    assert set(ALLOWED) <= used, f"not needed any more: {sorted(set(ALLOWED) - used)}"


@pytest.mark.parametrize(
    "line",
    [
        "open(path)",
        "Path(path).open('rb')",
        "path.open()",
        "path.read_bytes()",
        "path.write_text('')",
        "Image.open(path)",
        "np.load(path)",
        "torch.load(path)",
        "safe_open(path, 'pt')",
        "load_file(path)",
        "zipfile.ZipFile(path)",
        "tarfile.open(path)",
        "json.load(file)",
        "os.open(path, 0)",
        "shutil.move(a, b)",
        "shutil.copyfile(a, b)",
        "os.replace(a, b)",
        "a.replace(b)",
        "subprocess.run(['gs'])",
        "from subprocess import run",
        "from os import replace",
        "from shutil import copyfile as text",
        "os.execvp('gs', [])",
    ],
)
def test_the_test_sees_a_call(line):
    assert list(doors(line))


@pytest.mark.parametrize(
    "line", ["text.replace('a', 'b')", "archive.open(entry)", "json.loads(text)", "replace(x)"]
)
def test_the_test_sees_no_call_where_there_is_none(line):
    assert not list(doors(line))


def test_pictures_are_decoded_by_named_formats_none_of_which_starts_a_program():
    from PIL import EpsImagePlugin, Image

    from digit.data.decode import _FORMATS

    Image.init()
    assert set(_FORMATS) <= set(Image.OPEN) and EpsImagePlugin.EpsImageFile.format not in _FORMATS
    calls = [
        node
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Image.open")
    ]
    assert calls
    for call in calls:
        assert {word.arg: ast.unparse(word.value) for word in call.keywords}.get("formats") == "_FORMATS"
