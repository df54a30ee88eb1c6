"""Recipes on conversations: fine-tuning, reward models, preferences, principles, reinforcement
learning."""

from typing import Literal, Self

from pydantic import Field, model_validator

from daedal.data.rows import ChatSource
from daedal.train.recipe.base import Count, Fixed, OptimizerRecipe, Run, Section, Share, Whole


class AdapterRecipe(Section):
    """A LoRA in place of full weights; `alpha` None is the rank. `out/adapter` holds it, and
    `out/model` the model with it merged in. With `bits` the frozen base is packed in memory
    (Dettmers et al. 2023, QLoRA); it is merged into the start as it is on disk."""

    rank: Count = 16
    alpha: float | None = None
    targets: list[str] = [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")]
    rslora: bool = False
    dora: bool = False
    bits: Literal[8, 4] | None = None
    merge: bool = True


class ChatData(Section):
    train: list[ChatSource] = [ChatSource(path="tasks")]
    validation: list[ChatSource] = []


class ChatRun(Run):
    """What the tasks on conversations share. Without `context` it is the model's."""

    start: Fixed[str]  # folder, house model or Hub name
    adapter: Fixed[AdapterRecipe | None] = None
    data: Fixed[ChatData] = ChatData()
    context: Fixed[int | None] = None
    prompts: list[str] = []
    evaluate_tasks: Whole = 60  # held-out tasks, answered by the model and checked by program
    evaluate_kinds: list[str] = []  # of them; none: all
    answer_tokens: Count = 160  # of an answer at most

    @model_validator(mode="after")
    def adapts_whole_weights(self) -> Self:
        if self.adapter and self.parallel == "fsdp":
            raise ValueError("an adapter's base is not sharded; use parallel: ddp")
        return self


class SampledRecipe(Section):
    """Answers of the start itself, or of a `teacher`, to tasks: `n` each to `tasks` prompts of
    these `kinds` (none: all), checked by program. Kept are those that earn at least `threshold`
    (task: sft), or the best and the worst of a prompt (task: preference)."""

    teacher: str | None = None  # folder, house model or Hub name of a chat model
    tasks: Count = 200
    n: Count = 8
    kinds: list[str] = []
    temperature: float = 1.0
    threshold: float = 1.0
    weight: float = 1.0  # among the other sources


class SFTRecipe(ChatRun):
    """Supervised fine-tuning on conversations (daedal.train.sft)."""

    task: Literal["sft"] = "sft"
    # rejection sampling: the start's own right answers are a source too
    sampled: Fixed[SampledRecipe | None] = None
    optimizer: OptimizerRecipe = OptimizerRecipe(
        name="adamw", adam_lr=2e-5, weight_decay=0.0, warmup=10, decay=0.8
    )


class TeacherRecipe(Run):
    """Exchanges written by a teacher (daedal.train.teacher): `steps` times `rows` requests of these
    `kinds` (none: all), `micro_rows` of them at once."""

    task: Literal["teacher"] = "teacher"
    teacher: Fixed[str]  # folder or name of a chat model
    kinds: Fixed[list[str]] = []
    system: Fixed[str] = ""  # how it is to write
    examples: Fixed[list[dict[str, str]]] = []  # prompt and completion, shown before every request
    answer_tokens: Count = 110
    temperature: float = 0.8
    top_p: Share = 0.95
    rows: Fixed[Count] = 512
    micro_rows: Count = 64


class RewardRecipe(ChatRun):
    """A reward model from comparisons (daedal.train.reward)."""

    task: Literal["reward"] = "reward"
    # a value for a whole answer, or a logit for each step of it
    kind: Fixed[Literal["outcome", "process"]] = "outcome"
    task_pairs: Fixed[Count] = 2000  # made of each source of tasks that has no limit
    # the start's own best and worst answers are pairs too
    sampled: Fixed[SampledRecipe | None] = None
    margin: float = 1.0  # weight of a pair's own margin
    centre: float = 0.01  # of the pull of rewards towards a mean of zero
    rows: Count = 16
    micro_rows: Count = 16
    evaluate_tasks: Whole = 200
    optimizer: OptimizerRecipe = OptimizerRecipe(
        name="adamw", adam_lr=2e-5, weight_decay=0.0, warmup=10, decay=0.8
    )


class PreferenceRecipe(ChatRun):
    """A policy from comparisons (daedal.train.preference). With `sampled` it answers tasks first,
    and its own best and worst answers are the pairs."""

    task: Literal["preference"] = "preference"
    method: Fixed[Literal["dpo", "ipo", "kto", "orpo", "simpo"]] = "dpo"
    beta: float = 0.1
    smoothing: Share = 0.0  # dpo: the share of labels taken to be wrong (cDPO)
    gamma: float = 1.0  # simpo: the margin
    good_weight: float = 1.0  # kto
    bad_weight: float = 1.0
    task_pairs: Fixed[Count] = 2000
    sampled: Fixed[SampledRecipe | None] = None
    rows: Count = 16
    micro_rows: Count = 16
    optimizer: OptimizerRecipe = OptimizerRecipe(
        name="adamw", adam_lr=2e-5, weight_decay=0.0, warmup=10, decay=0.8
    )


class ConstitutionRecipe(ChatRun):
    """Critique, revision and preferences by written principles (daedal.train.constitution).
    `critic` is "self", "program" (the principles' words), or a chat model's folder; `steps` are
    DPO's."""

    task: Literal["constitution"] = "constitution"
    principles: str | None = None  # a YAML list of them; None: daedal/train/principles.yaml
    critic: str = "self"
    questions: Count = 200  # prompts that are answered and revised, and again for pairs
    rounds: Count = 1  # of revision
    temperature: float = 1.0
    sure: float = 0.1  # how far from even a preference must be to count
    sft_steps: Whole = 60
    sft_lr: float = 2e-5
    dpo_lr: float = 1e-4
    rows: Count = 8
    micro_rows: Count = 8


class RolloutRecipe(Section):
    """`group` completions each of `questions` prompts, over all processes, and what draws them.
    `dynamic` asks on until every prompt's rewards differ (DAPO); the last `overlong` tokens of an
    answer that is cut cost up to 1. `batch`: completions that an engine runs at once. `actors` draw
    in processes of their own (daedal.train.actors)."""

    questions: Count = 16
    group: Count = 8
    temperature: float = Field(1.0, gt=0)
    top_k: Whole = 0
    top_p: Share = 1.0
    min_p: Share = 0.0
    dynamic: bool = False
    overlong: Whole = 0
    batch: Count = 128
    actors: int = Field(0, ge=0)


class RLData(ChatData):
    """Prompts: `tasks:arithmetic`, or files whose rows have a prompt. `reward`: "check" is the
    task's own (of a file: its answer column), else `package.module:function` of (prompt,
    completion), or the folder of a reward model."""

    reward: str = "check"


class RLRecipe(ChatRun):
    """Reinforcement learning from a reward (daedal.train.rl). The reference is `start`. `rows` are
    the completions of an optimizer step, `rollout.questions` times `rollout.group` those of a
    rollout."""

    task: Literal["rl"] = "rl"
    method: Fixed[
        Literal["ppo", "reinforce++", "rloo", "grpo", "dapo", "dr_grpo", "gspo", "cispo"]
    ] = "grpo"
    data: Fixed[RLData] = RLData()
    rollout: RolloutRecipe = RolloutRecipe()
    answer_tokens: Count = 64
    epochs: Count = 1  # over a rollout
    clip: float | None = None  # of the ratio, below and above 1; None: the method's own
    clip_high: float | None = None  # above, where it differs
    # weight of the divergence from the reference: in the rewards of ppo, reinforce++ and rloo, else
    # in the loss
    kl: float = 0.0
    kl_target: float | None = None  # nats a completion, to which the weight adapts
    # ppo: folder of the scalar model that the value network starts from; None: the start under a
    # new head
    value: str | None = None
    gamma: float = 1.0  # ppo, as are the next three
    lam: float = 0.95
    value_clip: float | None = 0.2
    value_weight: float = 0.5
    # the run stops when a completion is further than so many nats from the reference,
    kl_stop: float | None = 100.0
    shortest: float = 2.0  # when the mean completion is shorter than so many tokens,
    # when held-out tasks' own check falls so far below its best while the reward rises,
    held_out_drop: float | None = None
    dropped_most: float = 0.5  # or when the reward fails for more than this share of a rollout
    rows: Count = 128
    micro_rows: Count = 32
    dtype: Literal["auto", "fp32", "bf16"] = "fp32"
    optimizer: OptimizerRecipe = OptimizerRecipe(
        name="adamw", adam_lr=1e-5, weight_decay=0.0, betas=(0.9, 0.99), warmup=5, decay=0.3
    )

    @model_validator(mode="after")
    def divides(self) -> Self:
        made = self.rollout.questions * self.rollout.group
        if made % self.rows or self.rows % self.micro_rows:
            raise ValueError(
                f"a rollout of {made} completions (questions x group) must split into rows = {self.rows}, and rows into micro_rows"
            )
        if self.rollout.group < 2 and self.method not in ("ppo", "reinforce++"):
            raise ValueError(
                f"method {self.method} compares the completions of a prompt: rollout.group must be at least 2"
            )
        if self.kl_target and not self.kl:
            raise ValueError("kl_target adapts the weight kl, which must start above 0")
        return self
