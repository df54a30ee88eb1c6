"""CPU kernels in C++ (kernels.cpp and its parts): how they are built, found and called.

The first use on a machine compiles them with one `g++` call (3 s) into the user's cache folder,
in the background: until the library is there, and where there is no compiler or no AVX2, callers
take their PyTorch path. `DAEDAL_KERNELS=0` switches it off.

Every operation is a record of 24 words (a code, pointers, sizes) that `run` executes; a list of
records is one call into one parallel region. `watched_by` hands the records of a whole decode step
to a capture, see daedal.nn.replay.

Legend: M rows, N outputs, K inputs, B batch, T tokens, H heads.
"""

import contextlib
import ctypes
import functools
import hashlib
import mmap
import os
import platform
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from daedal.files import cache_folder
from daedal.nn.blocks import KINDS, columns_of
from daedal.nn.packing import dense, packed

SOURCE = Path(__file__).with_name("kernels.cpp")
BLOCK = 32  # inputs of packed weights are padded to a multiple of this
RECORD = struct.Struct("24q")
OWN = {"int8": 8, "bf16": 16, "fp32": 32}
FILE_BLOCKS = 64  # and the number of a type of GGUF
CODES = {
    name: code
    for code, name in enumerate(
        ["linear", "attend", "rms_norm", "add", "mul", "act", "rope", "read", "unpack"]
    )
}

_library: ctypes.CDLL | None = None
_failure = ""
_wrong = False  # the library was built, and its products are not what they should be
_next_look = 0.0
_watcher = threading.local()  # .capture: who is told of every record, in the thread that captures


# ---- building ------------------------------------------------------------------------------------


@functools.cache
def compiler() -> str | None:
    return shutil.which(os.environ.get("CXX") or "g++") or shutil.which("clang++")


@functools.cache
def library_path() -> Path:
    """Named by what it is made from, so that a changed source, compiler or CPU never meets an old
    library."""
    try:
        cpu = next(
            line
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("flags")
        )
    except (OSError, StopIteration):
        cpu = platform.processor()
    sources = [path.read_text() for path in (SOURCE, *sorted(SOURCE.parent.glob("*.h")))]
    parts = [*sources, str(compiler()), cpu, torch.__version__]
    return (
        cache_folder()
        / f"kernels-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}.so"
    )


def command(out: Path) -> list[str]:
    """The compiler call. It links the OpenMP that torch brings, so that a process has one pool of
    threads, not two that fight."""
    gomp = [
        str(path) for path in sorted((Path(torch.__file__).parent / "lib").glob("lib*omp*.so*"))[:1]
    ]
    return [
        str(compiler()),
        "-O3",
        "-march=native",
        "-std=c++17",
        "-fopenmp",
        "-shared",
        "-fPIC",
        str(SOURCE),
        "-o",
        str(out),
        "-Wl,--as-needed",
        *gomp,
    ]


def build(wait: bool = True) -> bool:
    """Compile the library if it is missing; True when it can be called. With `wait=False` a
    detached process does the work."""
    global _failure, _next_look
    path = library_path()
    if path.exists():
        _next_look = 0.0
        return available()
    if compiler() is None:
        _failure = "no C++ compiler; install g++"
        return False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _failure = f"{path.parent} cannot be written ({error.strerror}); set DAEDAL_CACHE"
        return False
    part = path.with_suffix(f".{os.getpid()}.part")
    script = 'out=$1; part=$2; shift 2; "$@" 2> "$out.log" && mv "$part" "$out" && rm -f "$out.log"'
    process = subprocess.Popen(
        ["sh", "-c", script, "sh", str(path), str(part), *command(part)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    return wait and process.wait() == 0 and build()


def available() -> bool:
    """Whether the kernels can be called now. The first call starts the build if need be and never
    waits for it."""
    global _library, _next_look
    if os.environ.get("DAEDAL_KERNELS") == "0" or _wrong:
        return False
    if _library is not None:
        return True
    if time.monotonic() < _next_look:
        return False
    path = library_path()
    if path.exists():
        _library = _open(path)
        if _library is not None and not right():
            _library = None
        return _library is not None
    if _next_look == 0.0 and not _failure:
        build(wait=False)
    _next_look = time.monotonic() + 0.5
    return False


def _open(path: Path) -> ctypes.CDLL | None:
    global _failure
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        _failure = f"{path} does not load ({error})"
        return None
    library.run.argtypes, library.run.restype = (
        [ctypes.c_char_p, ctypes.c_int64, ctypes.c_int],
        None,
    )
    return library


def right() -> bool:
    """Whether the products of the library just loaded agree with PyTorch's: it was compiled for
    this CPU, with instructions that may never have run anywhere else, and a wrong number must not
    pass for a fast one."""
    global _failure, _wrong
    draw = torch.Generator().manual_seed(0)
    for kind in ("int8", "bf16", "q4_k", "q6_k", "q5_0"):
        weight, scale = packed(torch.randn(24, 256, generator=draw), kind)
        for rows in (1, 3, 32):
            x = torch.randn(rows, 256, generator=draw)
            with watched_by(None):
                y = linear(x, [(weight, scale, None, 24, code(kind))])[0]
                stands_for = unpack(weight, kind) if kind in KINDS else dense(weight, scale, kind)
            want = x @ stands_for.mT
            # activations of products with int8 and blocks are rounded
            if not (y - want).norm() < 0.02 * want.norm():
                _failure, _wrong = (
                    f"the {kind} product is wrong on this CPU ({platform.machine()}); please report it",
                    True,
                )
                return False
    return True


def status() -> str:
    """One sentence for `daedal doctor`."""
    if os.environ.get("DAEDAL_KERNELS") == "0":
        return "off (DAEDAL_KERNELS=0)"
    if available():
        return f"ready ({library_path()})"
    log = Path(f"{library_path()}.log")
    if _failure or not compiler():
        return f"not available: {_failure or 'no C++ compiler; install g++'}"
    errors = (
        [line for line in log.read_text().splitlines() if "error" in line][:1]
        if log.exists()
        else []
    )
    return (
        f"not available: the compiler failed ({errors[0]})"
        if errors
        else "being built in the background"
    )


# ---- calling -------------------------------------------------------------------------------------


def program(records: list[bytes]) -> Callable[[], None]:
    """Records as one call into one parallel region."""
    assert _library is not None
    run, text, count = _library.run, b"".join(records), len(records)
    return lambda: run(text, count, torch.get_num_threads())


@contextlib.contextmanager
def watched_by(capture: Any) -> Iterator[None]:
    """Inside, every record launched by this thread is also given to `capture.record`, and the
    tensors it wrote to `capture.wrote`."""
    before, _watcher.capture = getattr(_watcher, "capture", None), capture
    try:
        yield
    finally:
        _watcher.capture = before


def launch(name: str, form: str, *args: float, wrote: tuple[Tensor, ...] = ()) -> None:
    """Execute one record. `form` has a struct letter an argument."""
    record = struct.pack(f"=q{form}", CODES[name], *args).ljust(RECORD.size, b"\0")
    if (capture := getattr(_watcher, "capture", None)) is not None:
        capture.record(record)
        capture.wrote(*wrote)
    assert _library is not None
    _library.run(record, 1, torch.get_num_threads())


def code(kind: str) -> int:
    """What the kernels call a kind of packing."""
    return FILE_BLOCKS + KINDS[kind].number if kind in KINDS else OWN[kind]


def linear(
    x: Tensor, weights: list[tuple[Tensor, Tensor | None, Tensor | None, int, int]]
) -> list[Tensor]:
    """x (M, K) fp32 through up to three weights (packed, scale, bias, N, code) -> fp32 (M, N) each.
    K is a multiple of 32; the weights are of one kind, or all of them blocks."""
    out = [x.new_empty(x.shape[0], n) for _, _, _, n, _ in weights]
    words = []
    for (weight, scale, bias, n, number), y in zip(weights, out, strict=True):
        words += [
            weight.data_ptr(),
            0 if scale is None else scale.data_ptr(),
            0 if bias is None else bias.data_ptr(),
            y.data_ptr(),
            n,
            number,
        ]
    launch(
        "linear",
        "q" * (5 + len(words)),
        x.data_ptr(),
        *x.shape,
        x.stride(0),
        len(weights),
        *words,
        wrote=(x, *out),
    )
    return out


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    positions: Tensor,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """One new token for each of B sequences: q (B, H, K), k and v (B, Hkv, K) fp32 -> (B, H, K).
    Writes k and v at `positions` (B) of `slots` (B) in keys and values (slots, Hkv, max_len, K;
    fp32 or bf16), then attends to everything up to there."""
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    out = torch.empty_like(q)
    pointers = [t.data_ptr() for t in (q, k, v, keys, values, slots, positions, out)]
    sizes = [
        *q.shape[:2],
        k.shape[1],
        q.shape[2],
        keys.shape[2],
        keys.dtype == torch.bfloat16,
        window or 0,
    ]
    launch(
        "attend", "q" * 15 + "dd", *pointers, *sizes, scale, softcap or 0.0, wrote=(q, k, v, out)
    )
    return out


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:  # (..., D) -> (..., D)
    out = torch.empty_like(x)
    launch(
        "rms_norm",
        "qqqqqdd",
        x.data_ptr(),
        weight.data_ptr(),
        out.data_ptr(),
        x.numel() // x.shape[-1],
        x.shape[-1],
        eps,
        0.0,
        wrote=(out,),
    )
    return out


def binary(name: str, a: Tensor, b: Tensor) -> Tensor:
    """`add` or `mul` of two contiguous tensors of one shape."""
    out = torch.empty_like(a)
    launch(name, "qqqq", a.data_ptr(), b.data_ptr(), out.data_ptr(), a.numel(), wrote=(out,))
    return out


def act(x: Tensor, kind: int) -> Tensor:
    """silu (kind 0) or gelu's tanh form (kind 1)."""
    out = torch.empty_like(x)
    launch("act", "qqqq", x.data_ptr(), out.data_ptr(), x.numel(), kind, wrote=(out,))
    return out


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate channels (i, i+R) of x (B, T, H, K); cos and sin (B, T, 1, R)."""
    x, cos, sin = x.contiguous(), cos.contiguous(), sin.contiguous()
    out = torch.empty_like(x)
    tokens, half = cos.numel() // cos.shape[-1], cos.shape[-1]
    launch(
        "rope",
        "q" * 8,
        x.data_ptr(),
        cos.data_ptr(),
        sin.data_ptr(),
        out.data_ptr(),
        tokens,
        x.shape[-2],
        x.shape[-1],
        half,
        wrote=(x, cos, sin, out),
    )
    return out


def unpack(rows: Tensor, kind: str) -> Tensor:
    """Rows of blocks, uint8 (N, bytes) -> fp32 (N, K)."""
    rows, out = rows.contiguous(), torch.empty(len(rows), columns_of(rows, kind))
    sizes = (*out.shape, KINDS[kind].number)
    launch("unpack", "qqqqq", rows.data_ptr(), out.data_ptr(), *sizes, wrote=(rows, out))
    return out


def read_bandwidth(seconds: float = 0.5, size: int = 256 << 20) -> float:
    """Bytes a second that all threads together read from memory: the roofline of decoding. Best of
    what fits in `seconds`."""
    data, out, best, stop = (
        huge(size),
        torch.zeros(256, dtype=torch.int64),
        0.0,
        time.perf_counter() + seconds,
    )
    data.fill_(1)
    while time.perf_counter() < stop or not best:
        start = time.perf_counter()
        launch("read", "qqq", data.data_ptr(), size, out.data_ptr())
        best = max(best, size / (time.perf_counter() - start))
    return best


def huge(size: int) -> Tensor:
    """Fresh uint8 memory on huge pages where the system has them, so that what is measured is
    memory, not its page tables."""
    region = mmap.mmap(-1, max(size, 1) + (2 << 20))
    if hasattr(mmap, "MADV_HUGEPAGE"):
        region.madvise(mmap.MADV_HUGEPAGE)
    memory = torch.frombuffer(region, dtype=torch.uint8)
    start = -memory.data_ptr() % (2 << 20)
    return memory[start : start + size]
