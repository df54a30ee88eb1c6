"""Text as a medium: the settings of a call and of loading."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from daedal.pipelines.medium import Loading, Medium
from daedal.processes.sampling_params import SamplingParams
from daedal.settings import Setting


@dataclass(frozen=True, kw_only=True)
class TextParams(SamplingParams):
    """Settings of one text. What is left out is the model's own choice (its
    generation_config.json), else the default here."""

    temperature: Annotated[float, Setting("0 is greedy, 1 the model's own distribution.")] = 0.8
    top_p: Annotated[float, Setting("Draw from the likeliest that hold this share.")] = 0.95
    raw: Annotated[
        bool, Setting("Continue the prompt's own words, also where the model is one that answers.")
    ] = False
    schema: Annotated[
        Any,
        Setting(
            "JSON schema that the text will satisfy: a file, or the schema itself.", metavar="FILE"
        ),
    ] = None
    regex: Annotated[str | None, Setting("Regular expression that the text will match.")] = None
    watermark: Annotated[
        bool, Setting("Mark the text, so that `daedal verify` knows it for this machine's.")
    ] = False
    watermark_strength: Annotated[
        float, Setting("Added to the logits of the mark's tokens.", 0, 20)
    ] = 2.0


@dataclass(frozen=True)
class TextLoading(Loading):
    adapter: Annotated[
        str | Path | None, Setting("Folder or Hub name of a LoRA to put on the model.")
    ] = None
    quantize: Annotated[
        int | str | None, Setting("Pack the weights on loading: 8, 4, or 16 for bf16.")
    ] = None
    draft: Annotated[
        str | Path | None,
        Setting(
            "A small model of the same tokenizer that guesses ahead; outputs stay the same.",
            metavar="MODEL",
        ),
    ] = None
    prompt_lookup: Annotated[
        int | None,
        Setting(
            "Guess so many tokens ahead from where the last ones stood before; outputs stay the same.",
            0,
            64,
        ),
    ] = None
    cache: Annotated[
        str | None,
        Setting(
            "How keys and values are kept: slots, or paged for many sequences of unlike lengths."
        ),
    ] = None
    attention: Annotated[
        str | None,
        Setting(
            "How keys and values are read: kernels (this package's, on a CPU), sdpa, flex (over pages), or auto."
        ),
    ] = None
    cache_gb: Annotated[
        float | None, Setting("Most memory for keys and values, in GB.", 0, 10**6)
    ] = None
    context: Annotated[
        int | None, Setting("Longest text with its prompt, in tokens.", 2, 10**9)
    ] = None
    adapters: Annotated[
        Mapping[str, str | Path] | None,
        Setting("LoRA folders by the names that requests ask for.", typed=False),
    ] = None


@dataclass(frozen=True)
class TextMeasuring:
    data: Annotated[
        str | None,
        Setting(
            "Held-out text: parquet, jsonl or txt, a file or a folder. Of an image model: real pictures with captions, or a recipe, which holds some out."
        ),
    ] = None
    column: Annotated[str, Setting("Text column.")] = "text"
    split: Annotated[str | None, Setting("Keep rows whose `split` column has this value.")] = None
    documents: Annotated[int, Setting("At most so many documents.", 1, 10**9)] = 1000
    context: Annotated[
        int | None, Setting("Window in tokens; the model's own by default.", 2, 10**9)
    ] = None
    tasks: Annotated[
        str | None,
        Setting(
            "Comma-separated: code, unit-tests, memorised (with --data), memory, tools, injection, bias (one of these seven alone), of an encoder of sentences retrieval or evidence (with --data, a folder of books), instructions, problems, refusals (of a small chat model), and lm-evaluation-harness tasks (extra: evals)."
        ),
    ] = None
    limit: Annotated[int | None, Setting("Examples a task.", 1, 10**9)] = None
    samples: Annotated[int, Setting("Of code: answers to each task.", 1, 10**4)] = 1
    temperature: Annotated[float, Setting("Of these; 0 is greedy.", 0, 10)] = 0.0
    search: Annotated[
        int | None, Setting("Of code: also solve by searching among so many samples.", 1, 10**4)
    ] = None


TEXT = Medium(
    name="text",
    help="Continue or answer a prompt with a language model.",
    prompt="What to continue or answer; standard input is the prompt, or its context.",
    plural="texts",
    settings=TextParams,
    loading=TextLoading,
    measuring=TextMeasuring,
    model="house/text",
    module="daedal.pipelines.text",
    metrics="daedal.evals.text",
    suffix=".txt",
    readable=True,
)
