"""Landlock: which files a process may read, write and execute, whom it may signal
(https://docs.kernel.org/userspace-api/landlock.html). The kernel enforces it for the process and
all that it starts; nothing takes it back.

A ruleset names the rights that it handles, all of those that the kernel knows, so whatever no rule
grants is denied."""

import ctypes
import os
import struct
from collections.abc import Iterable

from daedal.sandbox import system

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
PATH_BENEATH = 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE = 1, 1 << 1, 1 << 2, 1 << 3, 1 << 14
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE  # the rights a rule on a file may name
# how many rights over files each version knows; over TCP (bind, connect) since 4;
# scopes (abstract sockets, signals) since 6
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
TCP_SINCE, SCOPES_SINCE, TRUNCATE_SINCE = 4, 6, 3
READ = READ_FILE | READ_DIR


def version() -> int:
    """The kernel's Landlock version; 0 where it has none or a container's filter hides it."""
    return max(0, int(system.libc().syscall(CREATE_RULESET, None, 0, 1)))


def ruleset(read: Iterable[str], execute: Iterable[str] = (), write: Iterable[str] = ()) -> int:
    """A ruleset's descriptor: read beneath some paths, execute and read others, do anything but
    execute beneath the last. Paths that do not exist grant nothing."""
    abi = version()
    handled = (1 << FILE_RIGHTS[min(abi, 5)]) - 1
    tcp = 3 if abi >= TCP_SINCE else 0
    scopes = 3 if abi >= SCOPES_SINCE else 0
    attributes = struct.pack("<QQQ", handled, tcp, scopes)
    attributes = attributes[: 24 if scopes else 16 if tcp else 8]
    rules = system.call(
        "landlock_create_ruleset", CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0
    )
    for paths, rights in (
        (read, READ),
        (execute, READ | EXECUTE),
        (write, handled & ~EXECUTE),
    ):
        for path in paths:
            _allow(rules, path, rights & handled)
    return rules


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        at = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return
    try:
        if not os.path.isdir(path):
            rights &= OF_FILES
        rule = struct.pack("<Qi", rights, at)
        system.call("landlock_add_rule", ADD_RULE, rules, PATH_BENEATH, rule, 0)
    finally:
        os.close(at)


def restrict(rules: int) -> None:
    """This process, for good. It must have no_new_privs."""
    system.call("landlock_restrict_self", RESTRICT_SELF, rules, 0)
