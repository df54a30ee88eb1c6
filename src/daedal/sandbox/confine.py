"""What a freshly forked process does to itself before it runs anything that is not ours: limits,
another user, no privileges, Landlock, seccomp, in the one order that works."""

import os
import resource
import signal
from dataclasses import dataclass

from daedal.sandbox import landlock, seccomp, system
from daedal.sandbox.results import Limits

DAC_READ_SEARCH = 1 << 2
SETUID = 1 << 7
FIRST_USER, USERS = 61184, 4000  # a range that no account has
OPEN_FILES = 64


@dataclass(frozen=True)
class Identity:
    """Who the candidate is. Root's runs become a user without an account, of which nobody else has
    processes; others' runs stay who they are."""

    user: int | None
    capabilities: int  # kept: to read a standard library that lies in root's own folder
    counted_alone: bool  # RLIMIT_NPROC counts this sandbox's tasks and no others
    counted: bool  # it counts at all: the kernel exempts root


def identity(standard_library: str, alone: bool) -> Identity:
    """The identity for runs; `alone` says whether this process is in a user namespace of its
    own."""
    if alone or os.geteuid() != 0:
        return Identity(None, 0, alone, os.geteuid() != 0)
    permitted = system.permitted_capabilities()
    keep = 0 if readable_by_all(standard_library) else DAC_READ_SEARCH
    if not permitted & SETUID or permitted & keep != keep:
        return Identity(None, 0, False, False)
    return Identity(FIRST_USER + os.getpid() % USERS, keep, True, True)


def readable_by_all(folder: str) -> bool:
    parts = folder.split("/")
    above = ["/".join(parts[: i + 1]) or "/" for i in range(len(parts))]
    return all(os.stat(path).st_mode & 0o5 == 0o5 for path in above)


def limit(kind: int, soft: int, hard: int | None = None) -> None:
    """Set a limit, or keep what is there where that is lower."""
    ceiling = resource.getrlimit(kind)[1]
    hard = soft if hard is None else hard
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    resource.setrlimit(kind, (soft, hard))


def limit_resources(limits: Limits, file_bytes: int, address_space: bool) -> None:
    """Processor, memory, files. A tool with a compiler of its own (node) reserves far more
    addresses than it uses, so there only what is writable counts."""
    limit(resource.RLIMIT_CPU, limits.cpu_s, limits.cpu_s + 1)
    limit(resource.RLIMIT_DATA, limits.memory_bytes)
    if address_space:
        limit(resource.RLIMIT_AS, limits.memory_bytes)
    limit(resource.RLIMIT_FSIZE, file_bytes)
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_MSGQUEUE, 0)


def become(who: Identity) -> None:
    """Another user where that is asked, and without every capability that is not kept."""
    if system.permitted_capabilities():
        if who.user is not None:
            system.prctl(system.PR_SET_KEEPCAPS, 1)
            os.setgroups([])
            os.setresgid(who.user, who.user, who.user)
            os.setresuid(who.user, who.user, who.user)
        system.keep_capabilities(who.capabilities)
    system.prctl(system.PR_SET_NO_NEW_PRIVS, 1)


def tasks_of(user: int) -> int:
    """How many threads a user has now."""
    count = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == user:
                    count += len(os.listdir(f"/proc/{name}/task"))
            except OSError:
                continue  # it has ended meanwhile
    return count


def prepare(who: Identity, parent: int) -> None:
    """What can be done before there is a job: a session and an identity of its own, and an end when
    its parent ends."""
    os.setsid()
    become(who)
    # after the change of user, which clears it; a parent that died before is seen by its number
    system.prctl(system.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def confine(
    limits: Limits,
    rules: int,
    profile: seccomp.Profile,
    who: Identity,
    file_bytes: int = 0,
    address_space: bool = True,
) -> None:
    """This process, prepared, for good. Its descriptors above 3 are closed: Landlock's `rules` is
    one."""
    others = 0 if who.counted_alone else tasks_of(os.getuid())
    limit_resources(limits, file_bytes, address_space)
    landlock.restrict(rules)
    os.closerange(4, 2**16)
    limit(resource.RLIMIT_NPROC, others + limits.tasks)
    limit(resource.RLIMIT_NOFILE, OPEN_FILES)
    seccomp.install(profile)
