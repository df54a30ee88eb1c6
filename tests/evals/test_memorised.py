"""A model that repeats its texts is caught, and AUROC is the chance that it stands for."""

import json

import pytest
import torch

import daedal
from daedal.errors import DaedalError
from daedal.evals import memorised
from daedal.evals.text import evaluate
from daedal.pipelines.text_params import TextMeasuring


@pytest.fixture(scope="module")
def pipeline():
    return daedal.load("house/text")


def test_auroc_counts_pairs():
    found = memorised.auroc(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([2.0, 0.0]))
    assert found.value == pytest.approx(4.5 / 6) and found.low < found.value < found.high


def test_texts_that_a_model_wrote_itself_are_extracted_and_likely(pipeline, tmp_path):
    prompts = ["Once upon a time", "Tom and Lily", "The little rabbit"]
    own = [pipeline(p, max_tokens=140, temperature=0.0, raw=True).whole for p in prompts]
    rows = [{"text": text, "split": "train"} for text in own]
    noise = "Zebra quickly 17 beyond, sky iron perhaps under green tax loud. " * 12
    rows += [{"text": noise, "split": "val"}] * 3
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    report = evaluate(pipeline, TextMeasuring(data=str(file), tasks="memorised"))
    assert report.values["extraction"]["20 words verbatim"]["value"] >= 2 / 3
    assert report.values["extraction"]["longest run"]["value"] > 20
    assert report.values["membership"]["min-k AUROC"]["value"] == 1.0


def test_it_asks_for_the_texts(pipeline):
    with pytest.raises(DaedalError, match="--data"):
        evaluate(pipeline, TextMeasuring(tasks="memorised"))
