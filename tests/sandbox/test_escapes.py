"""Nothing that a candidate tries gets out, and what takes too much is ended."""

import subprocess
import sys
from pathlib import Path

import pytest

from daedal.sandbox.sandbox import Sandbox
from tests.sandbox.attacks import escaped
from tests.sandbox.escapes import GREEDY, expressions, system_calls

HARMLESS = (
    "read /etc/passwd", "read /proc/self/maps", "list /", "read by open", "read by os.open", "read by a raw file",
    "read by sqlite", "read by mmap", "read by libc open", "read by openat by number", "read by sendfile",
    "make a file outside", "make a folder", "make a link", "make rights", "make a file in memory", "connect by tcp",
    "connect by udp", "connect by local", "connect by a server", "start by fork", "start by subprocess",
    "start by spawn", "look at the parent", "a handle of the parent", "leave the group", "call inotify_init1",
    "call memfd_create", "call mlockall", "call io_uring_setup", "call mount", "call openat2",
)  # fmt: skip


def test_there_are_enough() -> None:
    assert len(expressions()) + len(system_calls()) + len(GREEDY) >= 200


def test_escapes_are_contained(sandbox: Sandbox) -> None:
    assert escaped(sandbox) == {}
    assert not Path("/tmp/daedal-escape").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="they are of Linux")
def test_they_get_out_where_nothing_confines(tmp_path: Path) -> None:
    """The control: harmless ones in a plain interpreter mostly succeed, so containing them means
    something."""
    (tmp_path / "secret").write_text("a secret to be found")
    (tmp_path / "outside").mkdir()
    codes = {**expressions(), **system_calls()}
    call = f"\nprint('got', attempt({str(tmp_path / 'secret')!r}, {str(tmp_path / 'outside')!r}))"
    running = [
        subprocess.Popen([sys.executable, "-S", "-c", codes[name] + call], stdout=-1, stderr=-3)
        for name in HARMLESS
    ]
    succeeded = [b"got True" in process.communicate()[0] for process in running]
    assert sum(succeeded) >= 0.8 * len(HARMLESS)
