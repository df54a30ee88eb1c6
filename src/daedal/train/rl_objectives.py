"""Policy optimisation as pure functions of tensors: log-probabilities under the settings that
sampled, divergences from a reference, advantages, and the losses of PPO, REINFORCE++, RLOO and GRPO
with its variants.

A loss comes out per token. `summed` adds it up and `counted` says by what to divide, over the batch
of all processes: so it does not matter how micro-batches and ranks split a batch.

Legend: B completions, G completions of one prompt, T tokens, N flat tokens, V vocabulary, D width.
`mask` (B, T) is True at sampled tokens."""

from collections.abc import Callable
from itertools import repeat
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

from daedal.processes.sampling import INF, SamplingParams, truncate

Head = Callable[[Tensor], Tensor]  # (n, D) -> (n, V)
Mean = Literal["token", "sequence", "constant"]

# ---- log-probabilities ---------------------------------------------------------------------------


def token_logprobs(
    head: Head,
    hidden: Tensor,
    targets: Tensor,
    params: SamplingParams,
    support: Tensor | None = None,
    chunk: int = 2048,
) -> tuple[Tensor, Tensor]:
    """(log-probability, entropy without gradient), both (N,) fp32, of targets (N,) after hidden (N,
    D), under temperature and truncation. The tokens that truncation leaves are `support` (of
    `supports`, from when they were sampled), or follow from these logits. Logits exist for one
    chunk at a time; the backward pass makes them again."""
    if len(hidden) <= chunk:
        return scores(head, hidden, targets, params, support)
    kept = support.split(chunk) if support is not None else repeat(None)
    parts = zip(hidden.split(chunk), targets.split(chunk), repeat(params), kept, strict=False)
    made = [checkpoint(scores, head, *part, use_reentrant=False) for part in parts]
    logp, entropy = (torch.cat(some) for some in zip(*made, strict=True))
    return logp, entropy


def scores(
    head: Head, hidden: Tensor, targets: Tensor, params: SamplingParams, support: Tensor | None
) -> tuple[Tensor, Tensor]:
    truncated = support is not None or truncates(params)
    return Chosen.apply(adjusted(head(hidden), params, support), targets, truncated)


class Chosen(Function):
    """logits (n, V) fp32, targets (n,) -> (log-probability of the targets, entropy), as few passes
    over the logits as there can be: what is kept for the gradient, onehot - p, is the p that
    entropy needs."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, truncated: bool
    ) -> tuple[Tensor, Tensor]:
        p, goal = logits.softmax(-1), targets[:, None]
        top = logits.amax(-1)  # whose probability is 1 / sum(exp(logits - top))
        total = top - p.amax(-1).log()
        finite = logits.clamp(min=-1e30) if truncated else logits  # 0 * -inf would be nan
        mean = torch.bmm(p[:, None], finite[:, :, None])[:, 0, 0]  # sum of p * logit
        ctx.save_for_backward(p, goal)
        ctx.mark_non_differentiable(entropy := total - mean)
        return logits.gather(-1, goal)[:, 0] - total, entropy

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        p, goal = ctx.saved_tensors
        return (p * -grad[:, None]).scatter_add_(-1, goal, grad[:, None]), None, None


def adjusted(logits: Tensor, params: SamplingParams, support: Tensor | None) -> Tensor:
    """What the sampler draws from: logits over the temperature, -inf outside the support."""
    if support is not None:
        outside = ~unpacked(support, logits.shape[-1])
        return (logits.float() / params.temperature).masked_fill(outside, -INF)
    plain = not truncates(params) and params.temperature == 1
    return logits.float() if plain else truncate(logits, params)


def truncates(params: SamplingParams) -> bool:
    return bool(params.top_k or params.top_p < 1 or params.min_p or params.typical_p < 1)


@torch.no_grad()
def supports(
    head: Head, hidden: Tensor, targets: Tensor, params: SamplingParams, chunk: int = 2048
) -> Tensor:
    """The tokens that could be sampled, packed (N, ceil(V / 8)) uint8. A policy that moves must be
    scored on the support that it was sampled from, or ratios jump where tokens enter and leave it
    (DeepSeek-AI 2025, "keep sampling mask")."""
    kept = []
    for h, goal in zip(hidden.split(chunk), targets.split(chunk), strict=True):
        kept.append(packed((truncate(head(h), params) > -INF).scatter_(1, goal[:, None], True)))
    return torch.cat(kept)


def packed(mask: Tensor) -> Tensor:
    """bool (N, V) -> uint8 (N, ceil(V / 8))."""
    bits = torch.nn.functional.pad(mask, (0, -mask.shape[1] % 8)).view(len(mask), -1, 8)
    return (bits * (1 << torch.arange(8, device=mask.device))).sum(-1).to(torch.uint8)


def unpacked(bits: Tensor, size: int) -> Tensor:
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return (bits[..., None].bitwise_right_shift(places) & 1).flatten(1)[:, :size].bool()


# ---- divergence from a reference -----------------------------------------------------------------


def k1(logp: Tensor, reference: Tensor) -> Tensor:
    """log p - log q at samples of p: unbiased for KL(p, q), and often negative. For rewards: as a
    loss its expected gradient is zero."""
    return logp - reference


def k3(logp: Tensor, reference: Tensor) -> Tensor:
    """q / p - 1 - log(q / p): unbiased, never negative (Schulman 2020); the term of GRPO's loss
    (Shao et al. 2024, eq. 4)."""
    log_ratio = reference - logp
    return log_ratio.exp() - 1 - log_ratio


def next_kl_coefficient(
    coefficient: float, measured: float, target: float | None, samples: int, horizon: int = 10_000
) -> float:
    """Fixed without a target; with one it grows while the divergence is above it and falls below
    (Ziegler et al. 2019, section 2.2)."""
    if target is None:
        return coefficient
    error = min(0.2, max(-0.2, measured / target - 1))
    return coefficient * (1 + error * samples / horizon)


# ---- advantages ----------------------------------------------------------------------------------


def group_advantages(
    rewards: Tensor, group: int, kind: Literal["std", "mean", "rloo"] = "std"
) -> Tensor:
    """Rewards (B,) in groups of one prompt, NaN where a sample is dropped -> advantages (B,), 0 for
    those. `std`: standard deviations above the group's mean (Shao et al. 2024); `mean`: above the
    mean, undivided (Liu et al. 2025, Dr. GRPO); `rloo`: above the mean of the others (Ahmadian et
    al. 2024)."""
    grouped = rewards.view(-1, group)
    n = (~grouped.isnan()).sum(1, keepdim=True)
    centred = (grouped - grouped.nan_to_num().sum(1, keepdim=True) / n.clamp(min=1)).nan_to_num()
    if kind == "rloo":
        centred = centred * n / (n - 1).clamp(min=1)
    elif kind == "std":
        variance = centred.square().sum(1, keepdim=True) / (n - 1).clamp(min=1)
        centred = centred / (variance.sqrt() + 1e-4)
    return centred.flatten()


def informative(rewards: Tensor, group: int) -> Tensor:
    """(B,) bool: the group's rewards differ, so that it teaches something (DAPO's dynamic sampling;
    Yu et al. 2025, eq. 11)."""
    grouped = rewards.view(-1, group)
    low, high = grouped.nan_to_num(INF).amin(1), grouped.nan_to_num(-INF).amax(1)
    return (high > low).repeat_interleave(group)


def overlong(length: int, limit: int, buffer: int) -> float:
    """A penalty from 0 to -1 over the last `buffer` tokens before the limit (Yu et al. 2025, eq.
    13)."""
    return 0.0 if not buffer else -min(1.0, max(0.0, (length - limit + buffer) / buffer))


def shaped_rewards(score: Tensor, kl: Tensor, mask: Tensor, coefficient: float) -> Tensor:
    """Rewards of tokens (B, T): minus the divergence at each (B, T), and the score (B,) at the last
    (Ziegler et al. 2019, eq. 2)."""
    rewards = -coefficient * kl * mask
    last = mask.long() * torch.arange(1, mask.shape[1] + 1, device=mask.device)
    score = (score * mask.any(1))[:, None].to(rewards.dtype)
    return rewards.scatter_add(1, last.argmax(1, keepdim=True), score)


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95
) -> Tensor:
    """Generalised advantages (B, T) of sampled tokens (Schulman et al. 2016, eq. 16). `values` (B,
    T) are those of the states that tokens were drawn in; nothing follows the last token; tokens
    that nobody sampled (a tool's) are passed over."""
    found = torch.zeros_like(rewards)
    ahead, after = torch.zeros_like(rewards[:, 0]), torch.zeros_like(rewards[:, 0])
    for t in range(rewards.shape[1] - 1, -1, -1):
        here = mask[:, t]
        error = rewards[:, t] + gamma * after - values[:, t]
        ahead = torch.where(here, error + gamma * lam * ahead, ahead)
        after = torch.where(here, values[:, t], after)
        found[:, t] = ahead * here
    return found


def returns_to_go(rewards: Tensor, mask: Tensor) -> Tensor:
    """(B, T): all that is still to come, REINFORCE++'s advantage before it is whitened (Hu 2025)."""
    return gae(rewards, torch.zeros_like(rewards), mask, 1.0, 1.0)


def whitened(values: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the mask, of the whole rollout."""
    some = values[mask]
    return ((values - some.mean()) / (some.var(unbiased=False).sqrt() + 1e-8)) * mask


# ---- losses --------------------------------------------------------------------------------------


def sequence_log_ratio(log_ratio: Tensor, mask: Tensor) -> Tensor:
    """The mean log ratio of each completion's tokens, in all its places: GSPO's ratio (Zheng et al.
    2025, eq. 7)."""
    count = mask.sum(1, keepdim=True).clamp(min=1)
    return ((log_ratio * mask).sum(1, keepdim=True) / count).expand_as(log_ratio)


def clipped_loss(
    log_ratio: Tensor, advantages: Tensor, low: float = 0.2, high: float = 0.2
) -> Tensor:
    """-min(r A, clip(r, 1 - low, 1 + high) A) (Schulman et al. 2017, eq. 7; with high above low,
    DAPO's clip-higher)."""
    ratio = log_ratio.exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def cispo_loss(
    logp: Tensor, log_ratio: Tensor, advantages: Tensor, low: float = 1.0, high: float = 0.2
) -> Tensor:
    """-sg(clip(r)) A log p: the weight is clipped and every token keeps its gradient (MiniMax 2025,
    eq. 4)."""
    return -log_ratio.detach().exp().clamp(1 - low, 1 + high) * advantages * logp


def value_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float | None = 0.2) -> Tensor:
    """Half the squared error, the larger of the value's and of the value kept within `clip` of the
    old one."""
    error = (values - returns).square()
    if clip is not None:
        error = torch.maximum(error, (old + (values - old).clamp(-clip, clip) - returns).square())
    return error / 2


def summed(loss: Tensor, mask: Tensor, mean: Mean) -> Tensor:
    """The sum that is divided by `counted`: over tokens, or of each completion's mean."""
    loss = loss.masked_fill(~mask, 0)
    return (loss.sum(1) / mask.sum(1).clamp(min=1)).sum() if mean == "sequence" else loss.sum()


def counted(mask: Tensor, mean: Mean, limit: int = 1) -> int:
    """Of a whole batch: sampled tokens (DAPO), completions (GRPO), or completions times `limit`
    tokens whatever their length (Dr. GRPO)."""
    if mean == "token":
        return max(1, int(mask.sum()))
    return max(1, int(mask.any(1).sum())) * (limit if mean == "constant" else 1)
