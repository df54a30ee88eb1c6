"""Learning from comparisons as pure functions: reward models from pairs and ranked lists, and the
policy losses that need no reward model.

Each gives one loss a sample; a run sums them and divides by the number of samples in the batch of
all processes.

Legend: B samples, K completions of one prompt, S steps of a solution. `chosen` and `rejected` (B,)
are rewards, or log-probabilities of whole completions: summed over tokens for DPO, cDPO, IPO and
KTO, their mean for ORPO and SimPO."""

import torch
import torch.nn.functional as F
from torch import Tensor

# ---- rewards -------------------------------------------------------------------------------------


def bradley_terry(chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0) -> Tensor:
    """-log sigmoid(r_w - r_l - m) (Bradley & Terry 1952; margin: Touvron et al. 2023, eq. 2)."""
    return -F.logsigmoid(chosen - rejected - margin)


def plackett_luce(rewards: Tensor, ranks: Tensor) -> Tensor:
    """(B, K) rewards and ranks (1 the best, 0 no completion) -> (B,): each completion is to win
    against those ranked below it (Plackett 1975). Of two, it is Bradley-Terry; equal ranks do not
    compete."""
    # (B, K, K): j is worse than i
    below = (ranks[:, None, :] > ranks[:, :, None]) & (ranks[:, :, None] > 0)
    rivals = below | torch.eye(ranks.shape[1], dtype=torch.bool, device=ranks.device)
    # (B, K)
    among = rewards[:, None, :].expand(rivals.shape)
    field = among.masked_fill(~rivals, float("-inf")).logsumexp(-1)
    return ((field - rewards) * below.any(-1)).sum(-1)


def centring(rewards: Tensor, ranks: Tensor) -> Tensor:
    """Squared mean-free pull of rewards (B, K) towards zero, (sum of r)^2 (Eisenstein et al. 2023,
    eq. 8); differences are left as they are."""
    return (rewards * (ranks > 0)).sum(-1).square()


def process_loss(rewards: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of each step's reward, a logit, (B, S) with whether the step is right (Lightman
    et al. 2023): a mean over the steps."""
    labels = labels.to(rewards.dtype)
    each = F.binary_cross_entropy_with_logits(rewards, labels, reduction="none") * mask
    return each.sum(-1) / mask.sum(-1).clamp(min=1)


# ---- policies ------------------------------------------------------------------------------------


def dpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    beta: float,
    smoothing: float = 0.0,
) -> Tensor:
    """-log sigmoid(beta h), h the difference of log-ratios to the reference (Rafailov et al. 2023,
    eq. 7). With `smoothing` e it is cDPO, for labels wrong with probability e: (1 - e) of it plus e
    of the loss of the swapped pair (Mitchell 2023)."""
    h = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
    return -(1 - smoothing) * F.logsigmoid(h) - smoothing * F.logsigmoid(-h)


def ipo(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float
) -> Tensor:
    """(h - 1 / (2 beta))^2 (Azar et al. 2023, eq. 17): the difference of log-ratios is to have a
    size, not to grow for ever."""
    return ((chosen - ref_chosen) - (rejected - ref_rejected) - 1 / (2 * beta)).square()


def kto(
    logp: Tensor,
    ref: Tensor,
    good: Tensor,
    divergence: Tensor,
    beta: float,
    good_weight: float = 1.0,
    bad_weight: float = 1.0,
) -> Tensor:
    """Of single completions that are `good` (B,) bool or not: 1 - sigmoid(beta (r - z)) or 1 -
    sigmoid(beta (z - r)), r the log-ratio and z the `divergence` of policy from reference,
    estimated elsewhere and without gradient (Ethayarajh et al. 2024, eq. 8)."""
    gained = beta * (logp - ref - divergence.detach().clamp(min=0))
    lost = good_weight * (1 - gained.sigmoid()), bad_weight * (1 - (-gained).sigmoid())
    return torch.where(good, *lost)


def orpo(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """-log p(chosen) and beta times -log sigmoid of the difference of log-odds, all of mean
    log-probabilities (Hong et al. 2024, eq. 6)."""
    odds = chosen - rejected
    others = [torch.log1p(-logp.exp().clamp(max=1 - 1e-6)) for logp in (chosen, rejected)]
    odds = odds - (others[0] - others[1])
    return -chosen - beta * F.logsigmoid(odds)


def simpo(chosen: Tensor, rejected: Tensor, beta: float, gamma: float) -> Tensor:
    """-log sigmoid(beta (mean log p_w - mean log p_l) - gamma) (Meng et al. 2024, eq. 6): no
    reference, and length counts for nothing."""
    return -F.logsigmoid(beta * (chosen - rejected) - gamma)
