"""Namespaces: a root of its own with nothing in it but the folders named, no network, no processes
but its own (namespaces(7), pivot_root(2)). Where the process may not make them outright it makes
them inside a user namespace; distributions and containers that forbid that leave the tier below."""

import ctypes
import os
from collections.abc import Iterable, Iterator

from daedal.sandbox import system

NEW_MOUNTS, NEW_UTS, NEW_IPC = 0x20000, 0x4000000, 0x8000000
NEW_USER, NEW_PIDS, NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000
ALL = NEW_MOUNTS | NEW_UTS | NEW_IPC | NEW_PIDS | NEW_NETWORK
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT = 1, 2, 4, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
# what statvfs says of a mount -> the flag that keeps it; a user namespace may not drop them
KEPT = {2: 2, 4: 4, 8: 8, 1024: 1024, 2048: 2048, 4096: 1 << 21}
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
MNT_DETACH = 2
SYS_ADMIN = 1 << 21
LINKS = ("/bin", "/sbin", "/lib", "/lib64")  # into /usr on most systems, folders on some


def enter(root: str, read: Iterable[str], shared: str) -> bool:
    """Return in a new first process of new namespaces, whose root holds what lies beneath `read`,
    read-only, and `shared`; `root` is an empty folder to build it on. The process that called only
    waits from then on. Returns whether there is a user namespace; OSError where that is
    forbidden."""
    with_user = not system.permitted_capabilities() & SYS_ADMIN
    user, group = os.geteuid(), os.getegid()
    system.checked("unshare", system.libc().unshare(ALL | (NEW_USER if with_user else 0)))
    if with_user:
        _map_user(user, group)
    mount(None, "/", MS_REC | MS_PRIVATE)
    _build(root, read, shared)
    first = os.fork()
    if first:
        os.closerange(3, 2**16)
        os.waitpid(first, 0)
        os._exit(0)
    system.prctl(system.PR_SET_PDEATHSIG, 9)
    return with_user


def _map_user(user: int, group: int) -> None:
    for name, content in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(content)


def mount(source: str | None, target: str, flags: int, kind: str | None = None) -> None:
    result = system.libc().mount(
        source.encode() if source else None,
        target.encode(),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        b"size=1m,mode=755" if kind else None,
    )
    system.checked(f"mount {target}", result)


def _build(root: str, read: Iterable[str], shared: str) -> None:
    """Make the new root and move into it."""
    mount("tmpfs", root, MS_NOSUID | MS_NODEV, "tmpfs")
    for path in _outermost([*read, *LINKS]):
        _bind(root, path)
    target = root + shared
    os.makedirs(target, exist_ok=True)
    mount(shared, target, MS_BIND)
    os.chdir(root)
    system.call("pivot_root", PIVOT_ROOT[os.uname().machine], b".", b".")
    system.checked("umount", system.libc().umount2(b".", MNT_DETACH))
    os.chdir("/")
    mount(None, "/", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def _outermost(paths: list[str]) -> Iterator[str]:
    """Existing paths, without those that lie beneath another."""
    there = sorted({path for path in paths if os.path.lexists(path)})
    for path in there:
        if not any(path.startswith(other + "/") for other in there):
            yield path


def _bind(root: str, path: str) -> None:
    target = root + path
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    mount(path, target, MS_BIND | MS_REC)
    flags = os.statvfs(target).f_flag
    kept = sum(flag for bit, flag in KEPT.items() if flags & bit)
    mount(None, target, MS_REMOUNT | MS_BIND | MS_RDONLY | kept)
