"""Text as it is read aloud."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daedal.data.phonemes.normalise import normalise
from daedal.data.phonemes.numbers import cardinal, number, ordinal, roman, year

CASES = {
    "Dr. Smith paid $3.50.": "doctor Smith paid three dollars and fifty cents.",
    "It cost $1 and £5 million.": "It cost one dollar and five million pounds.",
    "$1.2bn or €0.05": "one point two billion dollars or five cents",
    "on May 17, 2024": "on May seventeenth, twenty twenty four",
    "17 May 1984": "the seventeenth of May, nineteen eighty four",
    "2024-05-17": "May seventeenth, twenty twenty four",
    "5/17/2024": "May seventeenth, twenty twenty four",
    "at 3:45 pm": "at three forty five P M",
    "at 7 a.m. sharp": "at seven A M sharp",
    "at 9:05": "at nine oh five",
    "at 12:00": "at twelve o'clock",
    "In 1905 and the 1980s": "In nineteen oh five and the nineteen eighties",
    "the 21st and 2nd": "the twenty first and second",
    "1,024 km": "one thousand twenty four kilometers",
    "1 kg, 20°C, 60 mph": "one kilogram, twenty degrees Celsius, sixty miles per hour",
    "6 ft 1 in": "six feet one inch",
    "50% of -3.14": "fifty percent of minus three point one four",
    "1/2, 3/4 and 3 1/2": "one half, three quarters and three and one half",
    "pages 10-20": "pages ten to twenty",
    "007": "zero zero seven",
    "Call 555-1234": "Call five five five, one two three four",
    "Chapter XIV": "Chapter fourteen",
    "Henry VIII, Louis XIV": "Henry the eighth, Louis the fourteenth",
    "I am": "I am",
    "the BBC and NASA": "the B B C and NASA",
    "THE END OF IT": "THE END OF IT",
    "bob@site.com": "bob at site dot com",
    "see https://www.example.org/a-b": "see example dot org slash a dash b",
    "e.g. this & that": "for example this and that",
    "Mr. and Mrs. Jones, St. Paul": "mister and missus Jones, saint Paul",
    "a café—“good”": 'a cafe -- "good"',
    "No. 7": "number seven",
    "J. R. Smith": "J R Smith",
}  # fmt: skip


@pytest.mark.parametrize("written", CASES)
def test_it_is_read_so(written):
    assert normalise(written) == CASES[written]


@given(st.integers(-(10**20), 10**20))
@settings(max_examples=100)
def test_numbers_are_words_that_say_them(n):
    words = cardinal(n)
    assert all(word.isalpha() for word in words.split())
    assert value(words) == n


def value(words):
    """A number from its words."""
    from daedal.data.phonemes.numbers import ONES, SCALES, TENS

    total, part, sign = 0, 0, 1
    for word in words.split():
        if word == "minus":
            sign = -1
        elif word in ONES:
            part += ONES.index(word)
        elif word in TENS:
            part += 10 * TENS.index(word)
        elif word == "hundred":
            part *= 100
        else:
            total, part = total + part * 1000 ** SCALES.index(word), 0
    return sign * (total + part)


def test_kinds_of_numbers():
    assert [ordinal(n) for n in (1, 12, 20, 33)] == [
        "first",
        "twelfth",
        "twentieth",
        "thirty third",
    ]
    assert [year(n) for n in (1066, 1900, 2000, 2005, 2019)] == [
        "ten sixty six", "nineteen hundred", "two thousand", "two thousand five", "twenty nineteen",
    ]  # fmt: skip
    assert [roman(text) for text in ("XIV", "MCMXCIX", "IIII", "ABC")] == [14, 1999, None, None]
    assert number("1,000,000") == "one million" and number(".5") == "zero point five"


@given(st.text(max_size=80))
@settings(max_examples=200)
def test_nothing_breaks_it_and_no_figure_stays(text):
    assert not any(c in "0123456789" for c in normalise(text))
