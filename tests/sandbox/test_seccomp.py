"""The filter, run by an interpreter of its instructions, allows what its tables say on every
architecture, whatever this machine is."""

import errno
import os
import struct
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from daedal.sandbox import seccomp
from daedal.sandbox.seccomp import ALLOW, ERRNO, KILL_PROCESS, OWN_PID, Profile

NO_CALL, NO_LEAVE = ERRNO | errno.ENOSYS, ERRNO | errno.EPERM
WIDEST = Profile(execute=True, processes=True, signals=True, changes=True)
NARROW = Profile(truncates=False)


@pytest.fixture(params=seccomp.ARCHITECTURES)
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    caches = (seccomp.table, seccomp.plain, seccomp.assemble)
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine=request.param))
    for cached in caches:
        cached.cache_clear()
    yield request.param
    for cached in caches:
        cached.cache_clear()


def decide(machine: str, profile: Profile, number: int, *arguments: int) -> int:
    """What the kernel would do with this call: classic BPF over struct seccomp_data."""
    architecture = seccomp.ARCHITECTURES[machine][1]
    data = struct.pack("<IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    return execute(seccomp.assemble(profile), data)


def execute(program: bytes, data: bytes) -> int:
    steps = list(struct.iter_unpack("<HBBI", program))
    at = accumulator = 0
    while True:
        code, if_true, if_false, value = steps[at]
        at += 1
        if code == 0x06:
            return value
        if code == 0x20:
            accumulator = struct.unpack_from("<I", data, value)[0]
        elif code == 0x05:
            at += value
        else:
            compare = {
                0x15: accumulator == value,
                0x25: accumulator > value,
                0x35: accumulator >= value,
                0x45: accumulator & value != 0,
            }
            at += if_true if compare[code] else if_false


@pytest.mark.parametrize("profile", [Profile(), NARROW, WIDEST])
def test_plain_calls_are_those_of_the_tables(machine: str, profile: Profile) -> None:
    allowed = set(seccomp.table(seccomp.NUMBERS).values())
    allowed |= set(seccomp.table(seccomp.CHANGES).values()) if profile.changes else set()
    judged = set(seccomp.table(seccomp.CONDITIONAL).values())
    for number in range(600):
        if number not in judged:
            want = ALLOW if number in allowed else NO_CALL
            assert decide(machine, profile, number) == want, number


def test_no_number_stands_twice(machine: str) -> None:
    tables = [seccomp.NUMBERS, seccomp.CONDITIONAL, seccomp.CHANGES]
    numbers = [number for text in tables for number in seccomp.table(text).values()]
    assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize(
    ("name", "arguments", "narrow", "widest"),
    [
        ("openat", (0, 0, 0), ALLOW, ALLOW),
        ("openat", (0, 0, 0o1101), NO_LEAVE, ALLOW),
        ("clone", (17,), NO_LEAVE, ALLOW),
        ("clone", (0x10F00,), ALLOW, ALLOW),
        ("clone", (0x10F00 | 0x10000000,), NO_LEAVE, NO_LEAVE),
        ("clone", (17 | 0x8000,), NO_LEAVE, NO_LEAVE),
        ("clone3", (0,), NO_CALL, NO_CALL),
        ("execve", (0,), NO_LEAVE, ALLOW),
        ("kill", (OWN_PID, 9), ALLOW, ALLOW),
        ("kill", (1, 9), NO_LEAVE, ALLOW),
        ("kill", (2**32 - 1, 9), NO_LEAVE, ALLOW),
        ("tgkill", (1, 1, 9), NO_LEAVE, ALLOW),
        ("socket", (2, 1), NO_LEAVE, NO_LEAVE),
        ("socketpair", (1, 1 | 0x80000), ALLOW, ALLOW),
        ("socketpair", (1, 2), NO_LEAVE, NO_LEAVE),
        ("socketpair", (2, 1), NO_LEAVE, NO_LEAVE),
        ("fcntl", (0, 3), ALLOW, ALLOW),
        ("fcntl", (0, 8), NO_LEAVE, NO_LEAVE),
        ("fcntl", (0, 10), NO_LEAVE, NO_LEAVE),
        ("ioctl", (0, 0x5401), ALLOW, ALLOW),
        ("ioctl", (0, 0x5412), ERRNO | errno.ENOTTY, ERRNO | errno.ENOTTY),
        ("prctl", (15,), ALLOW, ALLOW),
        ("prctl", (1,), NO_LEAVE, NO_LEAVE),
        ("prlimit64", (0,), ALLOW, ALLOW),
        ("prlimit64", (1,), NO_LEAVE, NO_LEAVE),
    ],
)
def test_arguments_are_judged(
    machine: str, name: str, arguments: tuple[int, ...], narrow: int, widest: int
) -> None:
    number = seccomp.table(seccomp.CONDITIONAL)[name]
    assert decide(machine, NARROW, number, *arguments) == narrow
    assert decide(machine, WIDEST, number, *arguments) == widest


def test_other_interfaces_kill(machine: str) -> None:
    program = seccomp.assemble(WIDEST)
    for other in (0x40000003, 0x40000028):  # 32-bit x86 and ARM
        assert execute(program, struct.pack("<IIQ6Q", 1, other, *[0] * 7)) == KILL_PROCESS
    assert decide(machine, WIDEST, seccomp.X32 | 1) == KILL_PROCESS
