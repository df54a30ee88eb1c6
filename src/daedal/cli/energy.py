"""`daedal energy`: what the generations of this machine took."""

import json
from typing import Annotated

import typer


def energy(
    country: Annotated[
        str, typer.Option(help="Whose electricity, for CO2: three letters (ISO 3166), like DEU.")
    ] = "WORLD",
    days: Annotated[float, typer.Option(help="Of the last so many days.")] = 30,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Joules and CO2 of what was generated here, by model: measured where the machine lets us read its
    counters, else estimated from CPU time."""
    from daedal.energy import METER
    from daedal.pipelines import history
    from daedal.trust.carbon import factors, grams

    rows = history.spent(days)
    for row in rows:
        row["grams_co2"] = grams(row["joules"], country)
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    print(
        f"{'medium':<14} {'model':<28} {'results':>7} {'J':>10} {'J each':>9} {'J per unit':>10} {'g CO2':>9}"
    )
    total = {"medium": "all", "model": "", "results": 0, "units": 0, "joules": 0.0}
    for row in rows:
        total |= {key: total[key] + row[key] for key in ("results", "units", "joules")}
    total["grams_co2"] = grams(total["joules"], country)
    for row in [*rows, total]:
        each, unit = row["joules"] / max(row["results"], 1), row["joules"] / max(row["units"], 1)
        print(
            f"{row['medium']:<14} {row['model'][:28]:<28} {row['results']:>7} {row['joules']:>10.1f} {each:>9.2f} {unit:>10.3f} {row['grams_co2']:>9.3f}"
        )
    value, year = factors()[country.upper()]
    print(f"\nA unit is a token, or a step of a picture or clip. On this machine: {METER.source}.")
    print(f"{country.upper()}: {value:.0f} g CO2 a kWh ({year}; Our World in Data, CC BY 4.0).")
