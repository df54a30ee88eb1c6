"""Joules, counted and estimated."""

import sqlite3

import pytest

import daedal
from daedal import energy
from daedal.energy import CORE_WATTS, Meter
from daedal.errors import DaedalError
from daedal.pipelines import history
from daedal.trust.carbon import factors, grams


def burn(meter: Meter, seconds: float) -> tuple[float, float]:
    """Compute for so long; (joules, CPU seconds)."""
    mark = meter.mark()
    while meter.mark()[0] - mark[0] < seconds:
        sum(range(1000))
    end = meter.mark()
    return meter.since(mark), end[0] - mark[0]


def test_without_a_counter_cpu_time_is_charged():
    meter = Meter(counters=[])
    joules, seconds = burn(meter, 0.05)
    assert joules == pytest.approx(seconds * CORE_WATTS, rel=0.1)
    assert meter.source == "estimated at 15 W a busy core"


def test_a_counter_is_shared_out_by_cpu_time(tmp_path, monkeypatch):
    """A processor that took 60 J while its cores were busy for 3 s takes 20 J a busy second."""
    file = tmp_path / "energy_uj"
    busy = iter((100.0, 103.0, 103.0))
    monkeypatch.setattr(energy, "busy_seconds", lambda: next(busy))
    monkeypatch.setattr(energy, "EVERY", 0.0)
    file.write_text("5000000")
    meter = Meter(counters=[file])
    meter.since(meter.mark())
    file.write_text("65000000")
    joules, seconds = burn(meter, 0.05)
    assert joules == pytest.approx(seconds * 20, rel=0.1) and meter.source == "measured (RAPL)"
    file.write_text("1000000")  # it ran over: the last rate stands
    assert burn(meter, 0.02)[0] == pytest.approx(0.4, rel=0.2)


def test_requests_of_a_batch_share_its_joules():
    pipeline = daedal.load("house/text")
    both = pipeline.start("Once upon a time", n=2, max_tokens=12, seed=1).results()
    alone = pipeline("Once upon a time", max_tokens=12, seed=1)
    assert all(each.joules > 0 for each in both)
    assert both[0].joules < alone.joules * 5 and both[0].text == alone.text
    assert both[0].as_dict()["joules"] > 0


def test_history_adds_up_and_an_older_log_grows(tmp_path, monkeypatch):
    place = tmp_path / "history.db"
    monkeypatch.setenv("DAEDAL_HISTORY", str(place))
    with sqlite3.connect(place) as old:
        old.execute(history.SCHEMA.replace(",\n    joules REAL", ""))
        old.execute(
            "INSERT INTO generations VALUES (1, 0, 'text', 'm', NULL, '\"p\"', '{}', 0, '{}', 'r', 3, 'stop')"
        )
    assert history.get(1).joules is None
    result = daedal.load("house/image-fast")("a red circle", seed=1)
    history.add(result)
    history.add(result)
    (row,) = history.spent(1)
    assert row["results"] == 2 and row["joules"] == pytest.approx(2 * result.joules)


def test_carbon_by_country():
    assert grams(3.6e6, "deu") == factors()["DEU"][0] and grams(3.6e6) == factors()["WORLD"][0]
    with pytest.raises(DaedalError, match="three letters"):
        grams(1.0, "Germany")
