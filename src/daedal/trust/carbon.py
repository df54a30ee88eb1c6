"""CO2 of electricity, by country: yearly means of Ember and the Energy Institute by way of Our World
in Data (CC BY 4.0), as codecarbon 3.3.2 carries them; WORLD is their mean by what is generated."""

import csv
import difflib
from functools import cache
from pathlib import Path

from daedal.errors import DaedalError

WORLD = "WORLD"


@cache
def factors() -> dict[str, tuple[float, int]]:
    """Country (ISO 3166 alpha-3) -> grams of CO2 a kilowatt hour, and of which year."""
    with Path(__file__).with_name("carbon.csv").open(encoding="utf-8") as file:
        return {
            row["country"]: (float(row["grams"]), int(row["year"])) for row in csv.DictReader(file)
        }


def grams(joules: float, country: str = WORLD) -> float:
    """Grams of CO2 of so many joules. DaedalError for a country that is not listed."""
    code = country.upper()
    if code not in factors():
        near = difflib.get_close_matches(code, factors(), 1, 0.0)
        raise DaedalError(
            f"country {country!r} is not listed; give three letters (ISO 3166), like {near[0]}, DEU or USA."
        )
    return joules / 3.6e6 * factors()[code][0]
