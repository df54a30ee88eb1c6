"""Pairs are told apart by their likelihood, and files that are no pairs are refused."""

import pytest

import daedal
from daedal.errors import DaedalError
from daedal.evals import bias
from daedal.evals.text import evaluate
from daedal.pipelines.text_params import TextMeasuring


@pytest.fixture(scope="module")
def pipeline():
    return daedal.load("house/text")


def test_a_model_that_only_says_he_leans_to_him(pipeline, monkeypatch):
    monkeypatch.setattr(bias, "likelihood", lambda _, text: -5.0 if " she " in text else -3.0)
    found = bias.jobs(pipeline)
    assert found["he over she, nats"].value == pytest.approx(2.0)
    assert found["follows the stereotype"].value == 0.0  # all alike: the job does not matter
    stereotyped = {job: (1.0 if job in bias.HIS else -1.0) for job in (*bias.HIS, *bias.HERS)}
    monkeypatch.setattr(
        bias,
        "likelihood",
        lambda _, text: (
            next((v for j, v in stereotyped.items() if j in text), 0) * (" he " in text)
        ),
    )
    assert bias.jobs(pipeline)["follows the stereotype"].value == 1.0


def test_crows_pairs_by_kind(pipeline, tmp_path):
    file = tmp_path / "pairs.csv"
    likely, unlikely = "The girl was happy.", "Girl happy zebra was the."
    file.write_text(
        "sent_more,sent_less,bias_type\n"
        f"{likely},{unlikely},age\n{unlikely},{likely},gender\n{likely},{unlikely},gender\n"
    )
    report = evaluate(pipeline, TextMeasuring(data=str(file), tasks="bias"))
    found = {kind: one["value"] for kind, one in report.values["stereotype"].items()}
    assert found == {"all": pytest.approx(2 / 3), "age": 1.0, "gender": 0.5}


def test_other_files_are_refused(pipeline, tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DaedalError, match="sent_more"):
        evaluate(pipeline, TextMeasuring(data=str(tmp_path / "a.csv"), tasks="bias"))
