import errno
import fcntl
import os
import socket
import subprocess
import sys
import threading

import pytest

from digit import locks
from digit.errors import DigitError


def test_a_locked_folder_is_one_commands_and_left_clean(tmp_path, monkeypatch):
    with locks.locked(tmp_path, "taken"):
        assert (tmp_path / ".lock").exists()
        with pytest.raises(DigitError, match="taken"), locks.locked(tmp_path, "taken"):
            pass
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt), locks.locked(tmp_path, "taken"):
        raise KeyboardInterrupt
    with locks.locked(tmp_path, "taken"):
        pass


def test_another_process_is_kept_out(tmp_path):
    """Also by the file that takes the lock's place; one that was killed keeps nobody out."""
    hold = (
        "import sys, time; from digit.locks import locked\n"
        "with locked(sys.argv[1], 'taken'): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", hold, tmp_path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(DigitError, match="taken"), locks.locked(tmp_path, "taken"):
            pass
        with pytest.raises(DigitError, match="taken"):
            locks.refuse_locked(tmp_path, "taken")
        other.kill()
    before = sorted(tmp_path.iterdir())
    locks.refuse_locked(tmp_path, "taken")
    assert sorted(tmp_path.iterdir()) == before == [tmp_path / ".lock"], "nothing is written"
    with locks.locked(tmp_path, "taken"):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_gets_a_warning(tmp_path, monkeypatch, capsys, number):
    def without_locks(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", without_locks)
    with locks.locked(tmp_path, "taken"):
        warned = capsys.readouterr().err
        assert "without locks" in warned and str(tmp_path) in warned and len(warned.splitlines()) == 1
        assert [path.name for path in tmp_path.iterdir()] == [".lock-process"]
        with pytest.raises(DigitError, match="taken"), locks.locked(tmp_path, "taken"):
            pass
    assert not list(tmp_path.iterdir())
    (tmp_path / ".lock-process").write_text(f"{2**22 + 1}\n{socket.gethostname()}\n")  # who is gone
    with locks.locked(tmp_path, "taken"):
        pass


def test_a_platform_without_flock_starts():
    """As Windows is: nothing of ours imports fcntl."""
    code = "import sys; sys.modules['fcntl'] = None; import digit.run.main, digit.pipeline, digit.run.dry_run"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("planted", ["link", "dangling link", "hard link", "pipe", "device", "folder"])
@pytest.mark.parametrize("name", [".lock", ".lock-process"])
def test_what_is_planted_under_the_locks_name_is_neither_followed_nor_emptied(
    tmp_path, monkeypatch, planted, name
):
    own, out = tmp_path / "own", tmp_path / "out"
    own.write_text("mine")
    out.mkdir()
    path = out / name
    match planted:
        case "link":
            path.symlink_to(own)
        case "dangling link":
            path.symlink_to(tmp_path / "made")
        case "hard link":
            os.link(own, path)
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/null")
        case "folder":
            path.mkdir()
    if name == ".lock-process":

        def without_locks(*arguments: object) -> None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

        monkeypatch.setattr(fcntl, "flock", without_locks)
    try:
        with locks.locked(out, "taken"):
            pass
    except (DigitError, OSError) as error:
        assert str(out) in str(error) and "\n" not in str(error)
    else:
        assert planted == "hard link"
    assert own.read_text() == "mine" and not (tmp_path / "made").exists()


def test_the_same_thread_may_have_a_folder_again(tmp_path):
    with locks.locked(tmp_path, "taken"):
        with locks.locked(tmp_path / "../" / tmp_path.name, "taken", again=True):
            assert (tmp_path / ".lock").exists()
        assert (tmp_path / ".lock").exists()
        found = []

        def another() -> None:
            with pytest.raises(DigitError, match="taken"), locks.locked(tmp_path, "taken", again=True):
                pass
            found.append(True)

        thread = threading.Thread(target=another)
        thread.start()
        thread.join()
        assert found
    assert not list(tmp_path.iterdir())
