"""Decode steps captured once and replayed: what CUDA graphs are to a GPU, for the CPU.

A decode step of a small network is a few hundred tiny operations; calling them from Python costs as
much time as reading the weights. So the step runs once under a dispatch mode that watches which
tensors follow from the inputs, and keeps what it saw:

- operations that have a kernel (daedal.nn.kernels) become records, and a run of records is one call
into one parallel region;
- any other operation is kept as itself and called again with its result copied to the same place;
- what does not depend on the inputs is kept as a constant; views need nothing.

The network stays the readable single definition: it is never rewritten, only watched. A step whose
course depends on the values of tensors can't be captured and raises `NotCapturable`; run it in the
ordinary way.

    step = DecodeReplay(network, cache, batch=4)
    logits = step(tokens, slots)          # (B,) ids and (B,) slots, one new token each -> (B, V);
    lengths advance
"""

import threading
from collections.abc import Callable
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import daedal.nn.attention as attention_module
from daedal.nn import kernels
from daedal.nn.attention import Scores
from daedal.nn.cache import KVCache

aten = torch.ops.aten
ALLOCATIONS = {aten.empty.memory_format, aten.empty_like.default, aten.new_empty.default}
CAPTURING = threading.Lock()  # a function is rebound
VALUE_DEPENDENT = {
    aten._local_scalar_dense.default,
    aten.item.default,
    aten.is_nonzero.default,
    aten.equal.default,
    aten.nonzero.default,
    aten.nonzero_numpy.default,  # nonzero(as_tuple=True), whole in inference mode
}
VALUE_TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class NotCapturable(RuntimeError):
    """The step looks at the values of tensors, or calls what can't be replayed."""


def memory_of(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class Capture(TorchDispatchMode):
    """Watches a function and keeps its `steps`: lists of kernel records, and calls."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """torch's switch: True would import its compiler, two seconds, to keep it out of a mode
        that no compiled code ever enters."""
        return False

    def __init__(self, inputs: list[Tensor]) -> None:
        super().__init__()
        self.live = {memory_of(t) for t in inputs}  # memory whose contents follow from the inputs
        self.keep: list[Any] = list(inputs)
        self.steps: list[list[bytes] | Callable[[], object]] = []

    def record(self, record: bytes) -> None:
        if not self.steps or not isinstance(self.steps[-1], list):
            self.steps.append([])
        self.steps[-1].append(record)  # type: ignore[union-attr]

    def wrote(self, *tensors: Tensor) -> None:
        self.live |= {memory_of(t) for t in tensors}
        self.keep += tensors

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        native = NATIVE.get(func)
        if native is not None and (result := native(*args, **kwargs)) is not None:
            return result
        if looks_at_values(func, args):
            if any(memory_of(t) in self.live for t in args if isinstance(t, Tensor)):
                raise NotCapturable(f"{func} looks at the values of a tensor")
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        self.keep_call(func, args, kwargs, result)
        return result

    def keep_call(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        given = [
            t for t in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)
        ]
        made = [t for t in torch.utils._pytree.tree_leaves(result) if isinstance(t, Tensor)]
        self.keep += made
        if func in ALLOCATIONS or not any(memory_of(t) in self.live for t in given):
            return  # nothing in it yet, or a constant
        if func._schema.is_mutable:
            self.live |= {memory_of(t) for t in given}
            self.steps.append(lambda: func(*args, **kwargs))
        elif any(memory_of(t) not in {memory_of(g) for g in given} for t in made):  # not a view
            self.live |= {memory_of(t) for t in made}
            self.steps.append(lambda: copy_all(made, func(*args, **kwargs)))


def looks_at_values(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether the result's shape, or a Python value, depends on what tensors hold. Indexing does so
    by bool masks only."""
    if func is aten.index.Tensor:
        return any(index is not None and index.dtype == torch.bool for index in args[1])
    return func in VALUE_DEPENDENT or bool(VALUE_TAGS & set(func.tags))


def copy_all(targets: list[Tensor], result: Any) -> None:
    for target, value in zip(targets, torch.utils._pytree.tree_leaves(result), strict=True):
        target.copy_(value)


# ---- operations with a kernel: None when this call is not one the kernel takes -------------------


def plain(*tensors: Any) -> bool:
    return all(
        isinstance(t, Tensor)
        and t.dtype == torch.float32
        and t.device.type == "cpu"
        and t.is_contiguous()
        for t in tensors
    )


def binary(name: str) -> Callable[..., Tensor | None]:
    def call(a: Any, b: Any, alpha: float = 1) -> Tensor | None:
        same = plain(a, b) and a.shape == b.shape and alpha == 1
        return kernels.binary(name, a, b) if same else None

    return call


def rms_norm(
    x: Tensor, shape: list[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor | None:
    if weight is None or eps is None or not plain(x, weight) or list(shape) != [x.shape[-1]]:
        return None
    return kernels.rms_norm(x, weight, eps)


def act(kind: int) -> Callable[..., Tensor | None]:
    def call(x: Tensor, approximate: str = "tanh") -> Tensor | None:
        return kernels.act(x, kind) if plain(x) and approximate == "tanh" else None

    return call


def gelu(x: Tensor, *, approximate: str = "none") -> Tensor | None:
    return act(1)(x, approximate)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    kinds = {torch.float32: 32, torch.bfloat16: 16}
    fits = (
        plain(x)
        and weight.is_contiguous()
        and weight.dtype in kinds
        and x.shape[-1] % 32 == 0
        and (bias is None or plain(bias))
    )
    if not fits:
        return None
    out = kernels.linear(
        x.view(-1, x.shape[-1]), [(weight, None, bias, weight.shape[0], kinds[weight.dtype])]
    )[0]
    return out.view(*x.shape[:-1], -1)


NATIVE: dict[Any, Callable[..., Tensor | None]] = {
    aten.add.Tensor: binary("add"), aten.mul.Tensor: binary("mul"), aten.rms_norm.default: rms_norm, aten.silu.default: act(0),
    aten.gelu.default: gelu, aten.linear.default: linear,
}  # fmt: skip


# ---- the decode step -----------------------------------------------------------------------------


class Slots:
    """The step that a captured network sees as its cache: one new token for each of B rows, whose
    slot and position are tensors."""

    def __init__(self, cache: KVCache, batch: int) -> None:
        self.cache = cache
        self.slots = torch.zeros(batch, dtype=torch.int64)
        self.positions = torch.zeros(1, batch, dtype=torch.int64)
        self.lengths = torch.ones(1, batch, dtype=torch.int64)

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, **scores: Unpack[Scores]
    ) -> Tensor:
        """q (1, B, H, K), k and v (1, B, Hkv, K) -> like q."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        out = kernels.attend(
            q[0],
            k[0],
            v[0],
            keys,
            values,
            self.slots,
            self.positions,
            **scores,
        )
        return out[None]


def fits(network: Any, cache: KVCache) -> bool:
    """Whether the kernels, which read fp32 activations, can run this network's decode step on this
    cache at all."""
    keys = cache.keys[0]
    if (network.compute_dtype or next(network.norm.parameters()).dtype) != torch.float32:
        return False
    if keys.dtype not in (torch.float32, torch.bfloat16) or keys.device.type != "cpu":
        return False
    return keys.shape[-1] % 8 == 0 and kernels.available()


class DecodeReplay:
    """The decode step of `network` for `batch` sequences in `cache`, captured at once. See the head
    of the file."""

    def __init__(self, network: nn.Module, cache: KVCache, batch: int) -> None:
        self.step, self.cache = Slots(cache, batch), cache
        self.tokens = torch.zeros(1, batch, dtype=torch.int64)
        # the capture runs for real: let it write where no sequence is
        spare = cache.values[-1].shape[2] - 1
        self.step.positions.fill_(spare)
        self.step.lengths.fill_(spare + 1)
        self.threads = torch.get_num_threads()
        inputs = [self.tokens, self.step.slots, self.step.positions, self.step.lengths]
        with torch.inference_mode(), CAPTURING, kernels.watched_by(capture := Capture(inputs)):
            rotate, here = attention_module.apply_rope, threading.get_ident()

            # other threads, which see it too, go on as before
            def watched(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
                return (kernels.rope if threading.get_ident() == here else rotate)(x, cos, sin)

            attention_module.apply_rope = watched
            try:
                with capture:
                    self.logits = network(self.tokens, cache=self.step)[0]  # (B, V)
            finally:
                attention_module.apply_rope = rotate
        self.steps = [kernels.program(s) if isinstance(s, list) else s for s in capture.steps]
        self.keep = capture.keep

    def __call__(self, tokens: list[int], slots: list[int]) -> Tensor:
        """The logits (B, V) after one more token in each slot; valid until the next call. The
        cache's lengths advance."""
        at = torch.tensor([self.cache.lengths[slot] for slot in slots])
        with torch.inference_mode():
            self.tokens[0] = torch.tensor(tokens)
            self.step.slots[:] = torch.tensor(slots)
            self.step.positions[0] = at
            self.step.lengths[0] = at + 1
            for step in self.steps:
                step()
        for slot in slots:
            self.cache.lengths[slot] += 1
        return self.logits
