"""Text as it is read aloud: figures, dates, times, money, units, abbreviations, addresses of the
web and signs written out in words. What stays are words of letters and apostrophes, single capital
letters that are spelt, and the punctuation that is heard."""

import re
import unicodedata
from collections.abc import Callable

from daedal.data.phonemes.numbers import cardinal, digits, number, ordinal, plural, roman, year

MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
MONTH = "|".join(f"{name}|{name[:3]}\\.?" for name in MONTHS) + "|Sept\\.?"
NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
LARGE = {"k": "thousand", "m": "million", "mn": "million", "bn": "billion", "b": "billion", "tn": "trillion"}  # fmt: skip
MONEY = {
    "$": ("dollar", "cent"), "£": ("pound", "penny"), "€": ("euro", "cent"), "¥": ("yen", "sen"), "₹": ("rupee", "paisa"),
}  # fmt: skip
UNITS = {
    "km": "kilometer", "m": "meter", "cm": "centimeter", "mm": "millimeter", "mi": "mile", "ft": "foot", "in": "inch", "yd": "yard",
    "kg": "kilogram", "g": "gram", "mg": "milligram", "lb": "pound", "lbs": "pound", "oz": "ounce", "l": "liter", "L": "liter", "ml": "milliliter",
    "s": "second", "sec": "second", "ms": "millisecond", "min": "minute", "h": "hour", "hr": "hour", "hrs": "hour",
    "Hz": "hertz", "kHz": "kilohertz", "MHz": "megahertz", "GHz": "gigahertz", "W": "watt", "kW": "kilowatt", "V": "volt", "A": "ampere",
    "KB": "kilobyte", "kB": "kilobyte", "MB": "megabyte", "GB": "gigabyte", "TB": "terabyte", "dB": "decibel",
    "mph": "mile per hour", "km/h": "kilometer per hour", "kph": "kilometer per hour", "m/s": "meter per second",
    "°C": "degree Celsius", "°F": "degree Fahrenheit", "°": "degree",
}  # fmt: skip
IRREGULAR = {"foot": "feet", "inch": "inches", "hertz": "hertz", "penny": "pence", "yen": "yen", "sen": "sen", "kilohertz": "kilohertz", "megahertz": "megahertz", "gigahertz": "gigahertz"}  # fmt: skip
ABBREVIATIONS = {
    "Mr": "mister", "Mrs": "missus", "Ms": "miz", "Dr": "doctor", "Prof": "professor", "Rev": "reverend", "Hon": "honorable", "Capt": "captain",
    "Col": "colonel", "Gen": "general", "Lt": "lieutenant", "Sgt": "sergeant", "Jr": "junior", "Sr": "senior", "St": "saint", "Mt": "mount",
    "Ave": "avenue", "Rd": "road", "Blvd": "boulevard", "Co": "company", "Corp": "corporation", "Inc": "incorporated", "Ltd": "limited",
    "vs": "versus", "etc": "et cetera", "approx": "approximately", "dept": "department", "Esq": "esquire", "Mme": "madame", "Messrs": "messieurs",
    "Jan": "January", "Feb": "February", "Aug": "August", "Sept": "September", "Oct": "October", "Nov": "November", "Dec": "December",
}  # fmt: skip
DOTTED = {"e.g.": "for example", "i.e.": "that is", "a.m.": "A M", "p.m.": "P M", "A.D.": "A D", "B.C.": "B C", "U.S.": "U S", "U.S.A.": "U S A", "U.K.": "U K", "Ph.D.": "P H D"}  # fmt: skip
SIGNS = {
    "&": "and", "+": "plus", "=": "equals", "@": "at", "%": "percent", "#": "number", "/": "slash", "~": "about", "<": "less than", ">": "greater than",
    "×": "times", "÷": "divided by", "±": "plus or minus", "©": "copyright", "§": "section", "_": " ", "^": " ", "|": ",", "\\": "backslash",
}  # fmt: skip
IN_ADDRESSES = {
    "@": "at", ".": "dot", "/": "slash", "-": "dash", "_": "underscore", "?": "question mark", "=": "equals", "&": "and", "#": "hash", ":": "colon", "~": "tilde",
    "%": "percent",
}  # fmt: skip
# words of two or three letters that stand in capitals without being initials
SHORT = frozenset(["a", "i", "an", "as", "at", "am", "be", "by", "do", "go", "he", "if", "in", "is", "it", "me", "my", "no", "of", "oh", "on", "or", "so", "to", "up", "us", "we", "all", "and", "any", "are", "boy", "but", "buy", "can", "did", "day", "end", "far", "few", "for", "get", "god", "got", "had", "has", "her", "him", "his", "how", "its", "let", "man", "may", "men", "new", "not", "now", "off", "old", "one", "our", "out", "own", "put", "ran", "run", "saw", "say", "see", "she", "sir", "six", "ten", "the", "too", "two", "use", "was", "way", "who", "why", "yes", "yet", "you", "mrs", "mr", "dr", "st"])  # fmt: skip
NUMBERED = r"(?i:chapter|book|part|volume|vol\.|act|scene|section|canto|letter|verse|appendix|phase|stage|type)"
RULERS = r"Henry|George|Edward|Charles|James|William|Richard|Louis|Elizabeth|John|Philip|Pope \w+|Napoleon|Pius|Leo|Gregory"  # fmt: skip
Match = re.Match[str]
Spoken = str | Callable[[Match], str]


def plain(text: str) -> str:
    """One way of writing quotes, dashes and letters: accents are taken off."""
    text = unicodedata.normalize("NFKC", text.replace("…", "...").replace("°", "°"))
    text = re.sub("[‘’ʼ`]", "'", text)
    text = re.sub("[“”„«»]", '"', text)
    text = re.sub("\\s*(?:—|–(?!\\d)|--+)\\s*", " -- ", text)
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))


def normalise(text: str) -> str:
    """The text in words. Raises nothing: what cannot be read is left as it is."""
    text = plain(text)
    for pattern, spoken in RULES:
        text = pattern.sub(spoken, text)
    return re.sub(r"[ \t]+", " ", text).strip()


# ---- one function a kind of writing; each takes a match ------------------------------------------


def address(match: Match) -> str:
    """A URL or e-mail address: what stands between its signs is read, `.` is dot."""
    text = re.sub(r"^(https?://)?(www\.)?", "", match[0].rstrip("/"))
    end = "." if text.endswith(".") else ""
    spoken = text.rstrip(".")
    for sign, word in IN_ADDRESSES.items():
        spoken = spoken.replace(sign, f" {word} ")
    return spoken + end


def money(match: Match) -> str:
    unit, part = MONEY[match["sign"]]
    amount, large = match["amount"].replace(",", ""), match["large"]
    if large:
        return f"{number(amount)} {LARGE.get(large.lower(), large)} {several(unit)}"
    whole, _, rest = amount.partition(".")
    if len(rest) != 2:
        return f"{number(amount)} {unit if amount == '1' else several(unit)}"
    said = f"{cardinal(int(whole or 0))} {unit if whole == '1' else several(unit)}"
    cents = f"{cardinal(int(rest))} {part if rest == '01' else several(part)}"
    return said if rest == "00" else cents if not int(whole or 0) else f"{said} and {cents}"


def several(unit: str) -> str:
    """mile per hour -> miles per hour."""
    first, _, rest = unit.partition(" ")
    return f"{IRREGULAR.get(first, first + 's')} {rest}".strip()


def measure(match: Match) -> str:
    unit = UNITS[match["unit"]]
    return f"{number(match['amount'])} {unit if match['amount'] == '1' else several(unit)}"


def month_day(match: Match) -> str:
    day = ordinal(int(match["day"]))
    said = f"{month(match['month'])} {day}"
    return said + (f", {year(int(match['year']))}" if match["year"] else "")


def day_month(match: Match) -> str:
    said = f"{ordinal(int(match['day']))} of {month(match['month'])}"
    return f"the {said}" + (f", {year(int(match['year']))}" if match["year"] else "")


def month(name: str) -> str:
    return next(full for full in MONTHS if full.startswith(name[:3]))


def figures_date(match: Match) -> str:
    """2024-05-17 and 5/17/2024: month, day, year."""
    m, d, y = (int(match[key]) for key in ("m", "d", "y"))
    if not (1 <= m <= 12 and 1 <= d <= 31):
        return match[0]
    return f"{MONTHS[m - 1]} {ordinal(d)}, {year(y)}"


def clock(match: Match) -> str:
    hour, minute = int(match["h"]), int(match["min"])
    said = cardinal(hour)
    if minute:
        said += f" {'oh ' if minute < 10 else ''}{cardinal(minute)}"
    elif not match["half"]:
        said += " o'clock" if 1 <= hour <= 12 else " hundred"
    return said + (f" {match['half'][0].upper()} M" if match["half"] else "")


def hour(match: Match) -> str:
    return f"{cardinal(int(match[1]))} {match[2].upper()} M"


def fraction(match: Match) -> str:
    a, b = int(match[1]), int(match[2])
    names = {2: "half", 4: "quarter"}
    if not 1 < b <= 100 or a >= b:
        return f"{cardinal(a)} over {cardinal(b)}"
    below = names.get(b) or ordinal(b)
    if a == 1:
        return f"one {below}"
    return f"{cardinal(a)} {'halves' if b == 2 else below + 's'}"


def bare_year(match: Match) -> str:
    """Four figures from 1100 to 2099 are a year where they stand alone."""
    n = int(match[0])
    return year(n) if 1100 <= n <= 2099 else number(match[0])


def initials(match: Match) -> str:
    """Capitals that are no word are spelt: BBC, USA, PhD."""
    word = match[0]
    vowels = re.search("[AEIOUY]", word)
    if word.lower() in SHORT or (len(word) > 3 and vowels):
        return word
    return " ".join(word)


def numbered(match: Match) -> str:
    value = roman(match[2])
    return f"{match[1]} {cardinal(value)}" if value else match[0]


def ruler(match: Match) -> str:
    value = roman(match[2])
    return f"{match[1]} the {ordinal(value)}" if value else match[0]


def rule(pattern: str, spoken: Spoken) -> tuple[re.Pattern[str], Spoken]:
    return re.compile(pattern), spoken


def words_of(table: dict[str, str]) -> str:
    return "|".join(re.escape(key) for key in sorted(table, key=len, reverse=True))


# in order: what an earlier one has written, a later one does not see as figures any more
RULES = [
    rule(r"\b[\w.+-]+@[\w-]+(\.[\w-]+)+\b", address),
    rule(r"\bhttps?://[^\s\"'<>)]+|\bwww\.[^\s\"'<>)]+|\b[\w-]+\.(?:com|org|net|edu|gov|io|co\.uk)\b(?:/[^\s\"'<>)]*)?", address),
    rule(r"\b(?P<h>[01]?\d|2[0-3]):(?P<min>[0-5]\d)(?::\d\d)?(?:\s?(?P<half>[apAP])\.?[mM]\b\.?)?", clock),
    rule(r"\b(\d\d?)\s?([apAP])\.?[mM]\b\.?", hour),
    rule(rf"(?<!\w)({words_of(DOTTED)})(?=\W|$)", lambda m: DOTTED[m[1]]),
    rule(rf"(?P<sign>[{''.join(MONEY)}])\s?(?P<amount>{NUMBER})(?:\s?(?P<large>thousand|million|billion|trillion|[kmbKMB]n?|tn)\b)?", money),
    rule(r"\b(?P<y>\d{4})-(?P<m>\d\d?)-(?P<d>\d\d?)\b", figures_date),
    rule(r"\b(?P<m>\d\d?)/(?P<d>\d\d?)/(?P<y>\d{4})\b", figures_date),
    rule(rf"\b(?P<month>{MONTH})\s+(?P<day>\d\d?)(?:st|nd|rd|th)?\b(?:,?\s+(?P<year>\d{{4}})\b)?", month_day),
    rule(rf"\b(?:the\s+)?(?P<day>\d\d?)(?:st|nd|rd|th)?(?:\s+of)?\s+(?P<month>{MONTH})(?!\w)(?:,?\s+(?P<year>\d{{4}})\b)?", day_month),
    rule(r"\b(\d{2,4})'?s\b", lambda m: plural(bare_decade(m[1]))),
    rule(r"(?P<amount>" + NUMBER + rf")\s?(?P<unit>{words_of(UNITS)})(?![\w/])", measure),
    rule(rf"({NUMBER})\s?%", lambda m: f"{number(m[1])} percent"),
    rule(r"\b(\d[\d,]*)(?:st|nd|rd|th)\b", lambda m: ordinal(int(m[1].replace(",", "")))),
    rule(r"\bNos?\.\s?(?=\d)", "number "),
    rule(r"\b(?:\+?\d{1,2}[ -])?\(?\d{3}\)?[ -]\d{3}[ -]\d{4}\b|\b\d{3}-\d{4}\b", lambda m: ", ".join(digits(part) for part in re.findall(r"\d+", m[0]))),
    rule(r"\b(\d+)\s?[-–]\s?(\d+)\b", lambda m: f"{bare(m[1])} to {bare(m[2])}"),
    rule(r"(?<=\d)\s(?=\d+/\d)", " and "),
    rule(r"\b(\d+)/(\d+)\b", fraction),
    rule(r"(?<![\w.,])\d{4}(?![\w,]|\.\d)", bare_year),
    rule(rf"(?<![\w.])[-−]?(?:{NUMBER})", lambda m: number(m[0])),
    rule(rf"\b({NUMBERED})\s+([IVXLC]+)\b", numbered),
    rule(rf"\b({RULERS})\s+([IVX]+)\b", ruler),
    rule(rf"\b({words_of(ABBREVIATIONS)})\.(?=\s|,|$)", lambda m: ABBREVIATIONS[m[1]]),
    rule(r"\b([A-Z])\.(?=\s?[A-Z])", r"\1 "),
    rule(r"\b[A-Z]{2,}\b", initials),
    rule(rf"[{re.escape(''.join(SIGNS))}]", lambda m: f" {SIGNS[m[0]]} "),
    rule(r"\d+", lambda m: f" {number(m[0])} "),
]  # fmt: skip


def bare_decade(figures: str) -> str:
    return year(int(figures)) if len(figures) == 4 else cardinal(int(figures))


def bare(figures: str) -> str:
    return (
        year(int(figures))
        if len(figures) == 4 and 1100 <= int(figures) <= 2099
        else number(figures)
    )
