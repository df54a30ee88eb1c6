"""Numbers in English words: cardinals, ordinals, years, decimals, digits, Roman numerals."""

import re

ONES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]  # fmt: skip
TENS = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
SCALES = ("", "thousand", "million", "billion", "trillion", "quadrillion", "quintillion")
ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth", "twelve": "twelfth",
}  # fmt: skip
ROMAN = {"M": 1000, "D": 500, "C": 100, "L": 50, "X": 10, "V": 5, "I": 1}
ROMAN_FORM = re.compile(r"M{0,3}(CM|CD|D?C{0,3})(XC|XL|L?X{0,3})(IX|IV|V?I{0,3})$")


def cardinal(n: int) -> str:
    """An integer; one of more than 21 figures digit by digit."""
    if n < 0:
        return f"minus {cardinal(-n)}"
    if n >= 1000 ** len(SCALES):
        return digits(str(n))
    words, scale = list[str](), 0
    while n:
        n, part = divmod(n, 1000)
        if part:
            words.insert(0, f"{below_thousand(part)} {SCALES[scale]}".strip())
        scale += 1
    return " ".join(words) or "zero"


def below_thousand(n: int) -> str:
    hundreds, rest = divmod(n, 100)
    words = [f"{ONES[hundreds]} hundred"] if hundreds else []
    if rest >= 20:
        words.append(TENS[rest // 10] + (f" {ONES[rest % 10]}" if rest % 10 else ""))
    elif rest:
        words.append(ONES[rest])
    return " ".join(words)


def ordinal(n: int) -> str:
    """21 -> twenty first."""
    *before, last = cardinal(n).split()
    if last in ORDINALS:
        last = ORDINALS[last]
    else:
        last = last[:-1] + "ieth" if last.endswith("y") else last + "th"
    return " ".join([*before, last])


def year(n: int) -> str:
    """1984 -> nineteen eighty four; 2005 -> two thousand five; 2024 -> twenty twenty four; 1900 -> nineteen hundred."""
    century, rest = divmod(n, 100)
    if n < 1000 or n > 9999 or (century % 10 == 0 and rest < 10):
        return cardinal(n)
    if not rest:
        return f"{cardinal(century)} hundred"
    return f"{cardinal(century)} {'oh ' if rest < 10 else ''}{cardinal(rest)}"


def digits(figures: str) -> str:
    """Figure by figure."""
    return " ".join(ONES[int(figure)] for figure in figures)


def number(figures: str) -> str:
    """A number as it is written: 1,024; -3.14; .5; 007."""
    sign = "minus " if figures[:1] in "-−" and figures[:1] else ""
    whole, _, part = figures.lstrip("-−+").replace(",", "").partition(".")
    if len(whole) > 1 and whole[0] == "0" and not part:
        return sign + digits(whole)
    spoken = cardinal(int(whole or 0))
    return sign + (f"{spoken} point {digits(part)}" if part else spoken)


def plural(words: str) -> str:
    """The last word in the plural: the nineteen eighties."""
    if words.endswith("y"):
        return words[:-1] + "ies"
    return words + ("es" if words.endswith(("x", "s", "ch")) else "s")


def roman(numeral: str) -> int | None:
    """XIV -> 14; None of what is no numeral."""
    if not numeral or not ROMAN_FORM.match(numeral):
        return None
    values = [ROMAN[letter] for letter in numeral]
    later = [*values[1:], 0]
    return sum(-a if a < b else a for a, b in zip(values, later, strict=True))
