"""seccomp: which system calls exist for a process. A list of those allowed, assembled to classic
BPF by hand (https://docs.kernel.org/userspace-api/seccomp_filter.html); any other fails with
ENOSYS, as on an older kernel, so that libraries fall back. That hides io_uring, ptrace, bpf,
userfaultfd, keyctl, mount, unshare, memfd and whatever comes next.

A filter sees numbers and register values, no memory: paths are Landlock's to judge."""

import ctypes
import errno
import os
import struct
from dataclasses import dataclass
from functools import cache

from daedal.sandbox import system

# name: number on x86_64 / on aarch64, `-` where the architecture has none
NUMBERS = """
read 0/63, write 1/64, readv 19/65, writev 20/66, pread64 17/67, pwrite64 18/68, preadv 295/69,
pwritev 296/70, preadv2 327/286, pwritev2 328/287, close 3/57, close_range 436/436, stat 4/-,
fstat 5/80, lstat 6/-, newfstatat 262/79, statx 332/291, lseek 8/62, access 21/-,
faccessat 269/48, faccessat2 439/439, readlink 89/-, readlinkat 267/78, getdents 78/-,
getdents64 217/61, statfs 137/43, fstatfs 138/44, getcwd 79/17, chdir 80/49, fchdir 81/50,
umask 95/166, dup 32/23, dup2 33/-, dup3 292/24, fsync 74/82, fdatasync 75/83, fadvise64 221/223,
sendfile 40/71, copy_file_range 326/285, mincore 27/232, msync 26/227,
mmap 9/222, mprotect 10/226, munmap 11/215, mremap 25/216, madvise 28/233, brk 12/214,
membarrier 324/283,
getpid 39/172, gettid 186/178, getppid 110/173, getuid 102/174, geteuid 107/175, getgid 104/176,
getegid 108/177, getgroups 115/158, getresuid 118/148, getresgid 120/150, getpgid 121/155,
getpgrp 111/-, getsid 124/156, exit 60/93, exit_group 231/94, wait4 61/260, waitid 247/95,
set_tid_address 218/96, set_robust_list 273/99, rseq 334/293, futex 202/98, arch_prctl 158/-,
restart_syscall 219/128, sched_yield 24/124, sched_getaffinity 204/123, sched_getparam 143/121,
sched_getscheduler 145/120, sched_get_priority_max 146/125, sched_get_priority_min 147/126,
getpriority 140/141, getcpu 309/168, getrlimit 97/163, setrlimit 160/164, getrusage 98/165,
uname 63/160, sysinfo 99/179, getrandom 318/278,
nanosleep 35/101, clock_nanosleep 230/115, clock_gettime 228/113, clock_getres 229/114,
gettimeofday 96/169, time 201/-, times 100/153, alarm 37/-, getitimer 36/102, setitimer 38/103,
timer_create 222/107, timer_settime 223/110, timer_gettime 224/108, timer_getoverrun 225/109,
timer_delete 226/111, timerfd_create 283/85, timerfd_settime 286/86, timerfd_gettime 287/87,
pause 34/-,
rt_sigaction 13/134, rt_sigprocmask 14/135, rt_sigreturn 15/139, rt_sigpending 127/136,
rt_sigtimedwait 128/137, rt_sigsuspend 130/133, sigaltstack 131/132, signalfd4 289/74,
poll 7/-, ppoll 271/73, select 23/-, pselect6 270/72, epoll_create 213/-, epoll_create1 291/20,
epoll_ctl 233/21, epoll_wait 232/-, epoll_pwait 281/22, epoll_pwait2 441/441, eventfd 284/-,
eventfd2 290/19, pipe 22/-, pipe2 293/59, sendto 44/206, recvfrom 45/207, shutdown 48/210,
getsockname 51/204, getpeername 52/205, getsockopt 55/209
"""
CONDITIONAL = """
open 2/-, openat 257/56, fcntl 72/25, ioctl 16/29, prctl 157/167, prlimit64 302/261, kill 62/129,
tgkill 234/131, clone 56/220, clone3 435/435, fork 57/-, vfork 58/-, socket 41/198,
socketpair 53/199, execve 59/221
"""
CHANGES = """
ftruncate 77/46, truncate 76/45, creat 85/-, rename 82/-, renameat 264/38, renameat2 316/276,
mkdir 83/-, mkdirat 258/34, rmdir 84/-, unlink 87/-, unlinkat 263/35, chmod 90/-, fchmod 91/52,
fchmodat 268/53, fallocate 285/47, utimensat 280/88
"""
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, AUDIT_ARCH
X32 = 0x40000000  # numbers of x86_64's other interface, which would pass unseen
LOAD, JUMP, EQUAL, ABOVE, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x05, 0x15, 0x25, 0x35, 0x45, 0x06
ALLOW, KILL_PROCESS, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16

CLONE_THREAD = 0x10000
CLONE_REFUSED = 0x7E020000 | 0x8000 | 0x2000  # new namespaces, CLONE_PARENT, CLONE_PTRACE
AF_UNIX, SOCK_STREAM = 1, 1
SOCKET_FLAGS = (0, 0x800, 0x80000, 0x80800)  # SOCK_NONBLOCK, SOCK_CLOEXEC
FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 1030, 1032)  # no owners, signals, leases, notifications
IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONREAD, ...
PRCTL = (3, 15, 16, 23, 0x53564D41)  # get dumpable, names of threads and memory, get a bound
O_TRUNC = 0o1000
OWN_PID = 0x7FFFFFFF  # no process has this number

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, value


@dataclass(frozen=True)
class Profile:
    """What a program needs beyond reading, computing and threads."""

    execute: bool = False  # the tool itself is started with execve; Landlock says which
    processes: bool = False  # fork
    signals: bool = False  # to any process that Landlock's scope leaves; else to itself only
    changes: bool = False  # of files, where Landlock allows: compilers write their output
    truncates: bool = True  # open with O_TRUNC; refused where Landlock does not judge it


@cache
def table(text: str) -> dict[str, int]:
    """Name -> number here; without those that this architecture lacks."""
    column = ARCHITECTURES[os.uname().machine][0]
    entries = (entry.split() for entry in text.replace("\n", " ").split(",") if entry.strip())
    numbers = {name: pair.split("/")[column] for name, pair in entries}
    return {name: int(number) for name, number in numbers.items() if number != "-"}


def refuse(number: int) -> Instruction:
    return (RETURN, 0, 0, ERRNO | number)


def load(argument: int) -> Instruction:
    """The low half of an argument: all the kernel reads of an int."""
    return (LOAD, 0, 0, ARGUMENTS_AT + 8 * argument)


def one_of(argument: int, values: tuple[int, ...], otherwise: int) -> list[Instruction]:
    """Allow these values of an argument, fail with an errno for others."""
    allow = [step for v in values for step in ((EQUAL, 0, 1, v), (RETURN, 0, 0, ALLOW))]
    return [load(argument), *allow, refuse(otherwise)]


def without(argument: int, bits: int, otherwise: int) -> list[Instruction]:
    """Allow unless the argument has one of these bits."""
    return [load(argument), (ANY_BIT, 0, 1, bits), refuse(otherwise), (RETURN, 0, 0, ALLOW)]


def threads_only() -> list[Instruction]:
    return [
        load(0),
        (ANY_BIT, 0, 1, CLONE_REFUSED),
        refuse(errno.EPERM),
        (ANY_BIT, 0, 1, CLONE_THREAD),
        (RETURN, 0, 0, ALLOW),
        refuse(errno.EPERM),
    ]


def stream_pairs() -> list[Instruction]:
    """socketpair: connected streams only. A datagram pair could address any socket's path."""
    types = tuple(SOCK_STREAM | flags for flags in SOCKET_FLAGS)
    return [load(0), (EQUAL, 1, 0, AF_UNIX), refuse(errno.EPERM), *one_of(1, types, errno.EPERM)]


def conditional(profile: Profile) -> dict[str, list[Instruction]]:
    """What is allowed of the calls whose arguments matter."""
    allow, deny = [(RETURN, 0, 0, ALLOW)], [refuse(errno.EPERM)]
    forks = allow if profile.processes else deny
    to_itself = allow if profile.signals else one_of(0, (OWN_PID,), errno.EPERM)
    opens = (
        (lambda at: allow) if profile.truncates else (lambda at: without(at, O_TRUNC, errno.EPERM))
    )
    return {
        "open": opens(1),
        "openat": opens(2),
        "fcntl": one_of(1, FCNTL, errno.EPERM),
        "ioctl": one_of(1, IOCTL, errno.ENOTTY),
        "prctl": one_of(0, PRCTL, errno.EPERM),
        "prlimit64": one_of(0, (0,), errno.EPERM),
        "kill": to_itself,
        "tgkill": to_itself,
        "clone": without(0, CLONE_REFUSED, errno.EPERM) if profile.processes else threads_only(),
        "clone3": [refuse(errno.ENOSYS)],  # its flags lie in memory, so the library takes clone
        "fork": forks,
        "vfork": forks,
        "socket": deny,
        "socketpair": stream_pairs(),
        "execve": allow if profile.execute else deny,
    }


@cache
def plain(changes: bool) -> list[tuple[int, int]]:
    """Ranges, first to last, of the numbers that are allowed whatever their arguments."""
    numbers = sorted([*table(NUMBERS).values(), *(table(CHANGES).values() if changes else ())])
    starts = [n for n in numbers if n - 1 not in numbers]
    return [
        (start, next(n for n in numbers if n >= start and n + 1 not in numbers)) for start in starts
    ]


def tree(rules: list[tuple[int, int, list[Instruction]]]) -> list[Instruction]:
    """What decides between ranges of numbers by halving: the kernel runs the filter for every
    number there is when it is installed, so a chain of comparisons would cost a run half a
    millisecond."""
    if len(rules) == 1:
        first, last, body = rules[0]
        return [
            (AT_LEAST, 0, len(body) + 1, first),
            (ABOVE, len(body), 0, last),
            *body,
            refuse(errno.ENOSYS),
        ]
    half = len(rules) // 2
    below, above = tree(rules[:half]), tree(rules[half:])
    return [(AT_LEAST, 0, 1, rules[half][0]), (JUMP, 0, 0, len(below)), *below, *above]


@cache
def assemble(profile: Profile) -> bytes:
    """The filter's program, with a mark where the number of its process belongs: it is made before
    the fork, for a run should not pay for it."""
    architecture = ARCHITECTURES[os.uname().machine][1]
    special = conditional(profile)
    rules = [(first, last, [(RETURN, 0, 0, ALLOW)]) for first, last in plain(profile.changes)]
    rules += [(number, number, special[name]) for name, number in table(CONDITIONAL).items()]
    steps: list[Instruction] = [
        (LOAD, 0, 0, ARCHITECTURE_AT),
        (EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL_PROCESS),
        (LOAD, 0, 0, NUMBER_AT),
        (AT_LEAST, 0, 1, X32),
        (RETURN, 0, 0, KILL_PROCESS),
        *tree(sorted(rules)),
    ]
    return b"".join(struct.pack("<HBBI", *step) for step in steps)


def install(profile: Profile) -> None:
    """Confine this thread, which must be the only one, for good. It must have no_new_privs."""
    own, mark = (struct.pack("<HBBI", EQUAL, 0, 1, pid) for pid in (os.getpid(), OWN_PID))
    program = assemble(profile).replace(mark, own)
    instructions = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("<HxxxxxxQ", len(program) // 8, ctypes.addressof(instructions))
    argument = ctypes.create_string_buffer(header, len(header))
    mode_filter = 2
    system.prctl(system.PR_SET_SECCOMP, mode_filter, argument)
