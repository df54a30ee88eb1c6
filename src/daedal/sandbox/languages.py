"""Which languages run, by which tool: a row each. Python runs in the zygote's own interpreter; the
others are started as programs under the same confinement, and may execute nothing but what stands
here."""

import glob
import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache

from daedal.errors import DaedalError, nearest

LOADERS = ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1", "/lib/ld-musl-*.so.1")
TEXT_TOOLS = [
    "cat",
    "sort",
    "uniq",
    "head",
    "tail",
    "cut",
    "tr",
    "wc",
    "grep",
    "sed",
    "awk",
    "seq",
    "expr",
    "paste",
    "rev",
    "tac",
    "fold",
    "nl",
    "od",
    "printf",
    "echo",
    "date",
    "sleep",
    "test",
    "basename",
    "dirname",
    "tee",
    "xargs",
    "true",
    "false",
    "bc",
    "comm",
    "join",
    "factor",
    "shuf",
]


@dataclass(frozen=True)
class Language:
    """A language other than Python. `arguments` and `build` stand for the tool's: `{source}` and
    `{program}` are filled in; one that is built runs its program, not its tool."""

    name: str
    tool: str
    source: str
    arguments: tuple[str, ...] = ("{source}",)
    build: tuple[str, ...] = ()
    helpers: tuple[str, ...] = ()  # other programs that it may execute
    processes: bool = False
    reserves: bool = False  # more addresses than memory
    out_of_memory: str = ""  # how it says so on stderr


PYTHON = "python"
LANGUAGES = (
    Language(
        "javascript",
        "node",
        "main.js",
        ("--openssl-config=/dev/null", "--max-old-space-size={megabytes}", "{source}"),
        reserves=True,
        out_of_memory="JavaScript heap out of memory",
    ),
    Language(
        "bash",
        "bash",
        "main.sh",
        ("--noprofile", "--norc", "{source}"),
        helpers=tuple(TEXT_TOOLS),
        processes=True,
        out_of_memory="cannot allocate",
    ),
    Language(
        "c",
        "cc",
        "main.c",
        build=("-O2", "-std=gnu17", "-w", "{source}", "-o", "{program}", "-lm"),
        helpers=("cc1", "collect2", "as", "ld"),
    ),
)


def language(name: str) -> Language:
    """The row of a language; an error names the ones there are."""
    found = next((each for each in LANGUAGES if each.name == name), None)
    if found is None:
        known = [PYTHON, *(each.name for each in LANGUAGES)]
        raise DaedalError(
            f"{name!r} is no language of the sandbox{nearest(name, known)}; it runs {', '.join(known)}."
        )
    if tool_of(found) is None:
        raise DaedalError(
            f"{name} needs {found.tool!r}, which is not installed here; install it, or use another language."
        )
    return found


def available() -> tuple[str, ...]:
    """The languages whose tools are here."""
    return (PYTHON, *(each.name for each in LANGUAGES if tool_of(each)))


@cache
def tool_of(row: Language) -> str | None:
    found = shutil.which(row.tool)
    return os.path.realpath(found) if found else None


@cache
def executables(row: Language) -> tuple[str, ...]:
    """Real paths of what a language's tool may execute: itself, its helpers, the loader."""
    tool = tool_of(row)
    assert tool is not None
    paths = [tool, *(_helper(row, tool, name) for name in row.helpers), *loaders()]
    return tuple(os.path.realpath(path) for path in paths if path)


def _helper(row: Language, tool: str, name: str) -> str | None:
    if not row.build:
        return shutil.which(name)
    # a compiler keeps its parts in a folder of its own and says where
    command = [tool, f"-print-prog-name={name}"]
    return shutil.which(subprocess.run(command, capture_output=True, text=True).stdout.strip())


@cache
def loaders() -> tuple[str, ...]:
    return tuple(path for pattern in LOADERS for path in glob.glob(pattern))


def tools() -> list[str]:
    """Paths of every tool here, for a new root to hold."""
    return sorted({path for row in LANGUAGES if tool_of(row) for path in executables(row)})
