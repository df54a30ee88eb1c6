"""System calls that Python does not offer, by ctypes. Numbers of the newer ones are the same on
every architecture."""

import ctypes
import os
from functools import cache

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
CAPABILITY_VERSION_3 = 0x20080522
CAPGET = {"x86_64": 125, "aarch64": 90}
CAPSET = {"x86_64": 126, "aarch64": 91}


@cache
def libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def checked(what: str, result: int) -> int:
    """The result of a call, or OSError with its errno."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def call(what: str, number: int, *arguments: object) -> int:
    return checked(what, libc().syscall(ctypes.c_long(number), *arguments))


def prctl(option: int, value: int = 0, pointer: ctypes.Array | None = None) -> int:
    zero = ctypes.c_ulong(0)
    third = ctypes.byref(pointer) if pointer is not None else zero
    result = libc().prctl(ctypes.c_int(option), ctypes.c_ulong(value), third, zero, zero)
    return checked(f"prctl {option}", result)


def permitted_capabilities() -> int:
    """The bits of this process's permitted set."""
    data = (ctypes.c_uint32 * 6)()
    _capabilities("capget", CAPGET, data)
    return data[1] | data[4] << 32


def keep_capabilities(bits: int) -> None:
    """Permitted and effective become `bits`, inheritable none."""
    low, high = bits & 0xFFFFFFFF, bits >> 32
    _capabilities("capset", CAPSET, (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0))


def _capabilities(what: str, numbers: dict[str, int], data: ctypes.Array) -> None:
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    call(what, numbers[os.uname().machine], ctypes.byref(header), ctypes.byref(data))
