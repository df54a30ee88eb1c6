"""The lm-evaluation-harness on our adapter: a local multiple-choice task and a generative one, with
intervals."""

import json

import pytest

import daedal

lm_eval = pytest.importorskip(
    "lm_eval", reason='the harness is an extra: pip install "daedal[evals]"'
)


@pytest.fixture
def tasks(tmp_path):
    """A manager that knows two tasks made here, so that nothing is downloaded."""
    from lm_eval.tasks import TaskManager

    rows = [
        {"question": f"Once upon a {i}", "choices": [" time", " cat"], "answer": i % 2}
        for i in range(6)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = f"dataset_path: json\ndataset_kwargs:\n  data_files: {{test: {tmp_path / 'rows.jsonl'}}}\ntest_split: test\ndoc_to_text: '{{{{question}}}}'\n"
    choice = "task: tiny_choice\noutput_type: multiple_choice\ndoc_to_choice: '{{choices}}'\ndoc_to_target: answer\nmetric_list:\n  - metric: acc\n"
    write = "task: tiny_write\noutput_type: generate_until\ndoc_to_target: '{{choices[0]}}'\ngeneration_kwargs: {until: ['.'], max_gen_toks: 4}\n"
    (tmp_path / "choice.yaml").write_text(common + choice)
    (tmp_path / "write.yaml").write_text(common + write + "metric_list:\n  - metric: exact_match\n")
    return TaskManager(include_path=str(tmp_path), include_defaults=False)


def test_tasks_run_with_intervals(tiny_folder, tasks, tmp_path, monkeypatch):
    from daedal.evals.harness import adapter, run_tasks

    monkeypatch.setenv("HF_HOME", str(tmp_path))
    pipeline = daedal.load(str(tiny_folder))
    report = run_tasks(pipeline, ["tiny_choice", "tiny_write"], task_manager=tasks)
    assert (
        0 <= report["tiny_choice"]["acc"]["value"] <= 1 and report["tiny_choice"]["acc"]["ci95"] > 0
    )
    assert "exact_match" in report["tiny_write"]
    scores = [adapter(pipeline).score("Once upon a", choice)[0] for choice in (" time", " cat")]
    assert scores[0] != scores[1] and max(scores) < 0


def test_the_first_word_is_scored_too(tiny_folder):
    """After a prefix token, bos or else eos, whether the tokenizer puts one in front of texts or
    not."""
    import torch

    from daedal.evals.harness import adapter

    pipeline = daedal.load(str(tiny_folder))
    words = pipeline.tokenizer
    whole = [words.bos_id, *(i for i in words.encode("One day") if i != words.bos_id)]
    with torch.no_grad():
        scores = pipeline.network(torch.tensor([whole]))[0].float().log_softmax(-1)
    want = sum(float(scores[i, token]) for i, token in enumerate(whole[1:]))
    assert adapter(pipeline).score("", "One day")[0] == pytest.approx(want, rel=1e-4)
