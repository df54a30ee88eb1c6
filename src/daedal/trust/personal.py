"""Personal data in a text by rules and checksums: what has a check digit must pass it (IBAN by ISO
7064, cards by Luhn), what has none must look like it and, where a bare number says little (dates of
birth), be named. It errs towards finding too little of addresses and dates, and finds no names."""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Found:
    """A piece of personal data: its kind, and where it stands."""

    kind: str
    start: int
    end: int


def luhn(digits: str) -> bool:
    """ISO/IEC 7812: every second digit from the right doubled, the sum of all digits divides by 10."""
    doubled = [int(d) * (1 + i % 2) for i, d in enumerate(reversed(digits))]
    return sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


def is_card(text: str) -> bool:
    digits = re.sub(r"\D", "", text)
    return 13 <= len(digits) <= 19 and digits[0] in "23456" and luhn(digits)


def is_iban(text: str) -> bool:
    """ISO 13616: country and check digits moved to the end, letters as 10 to 35, 1 modulo 97."""
    plain = text.replace(" ", "").upper()
    if not 15 <= len(plain) <= 34:
        return False
    return int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def is_ssn(text: str) -> bool:
    """A US social security number that can have been given out."""
    area, group, serial = re.split("[- ]", text)
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def is_phone(text: str) -> bool:
    digits = re.sub(r"\D", "", text)
    return 8 <= len(digits) <= 15 and len(set(digits)) > 2


def is_address(text: str) -> bool:
    """An address of the Internet that is somebody's."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (found.is_loopback or found.is_unspecified or found.is_reserved)


def always(_: str) -> bool:
    return True


MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*"
DATE = rf"(?:\d{{1,4}}[./-]\d{{1,2}}[./-]\d{{1,4}}|\d{{1,2}}\.? {MONTH},? \d{{4}}|{MONTH} \d{{1,2}},? \d{{4}})"
STREET = r"Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Boulevard|Blvd|Court|Ct|Square|Terrace|Way"
# kind -> pattern, and the check of what it finds; where a text is of several kinds, the first counts
RULES: dict[str, tuple[re.Pattern[str], Callable[[str], bool]]] = {
    "email": (re.compile(r"[\w.+%-]+@(?:[\w-]+\.)+[A-Za-z]{2,24}\b"), always),
    "iban": (re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"), is_iban),
    "card": (re.compile(r"(?<![\d-])\d(?:[ -]?\d){12,18}(?![\d-])"), is_card),
    "ssn": (re.compile(r"(?<![\d-])\d{3}[- ]\d{2}[- ]\d{4}(?![\d-])"), is_ssn),
    "ip": (re.compile(r"(?<![\w.:])(?:(?:\d{1,3}\.){3}\d{1,3}|(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{1,4})(?![\w:]|\.\d)"), is_address),
    "birth": (re.compile(rf"(?i:\b(?:born(?: on)?|birth(?:day|date)?(?: is| was)?(?: on)?|d\.?o\.?b\.?)\W{{1,3}}){DATE}"), always),
    "address": (re.compile(rf"\b\d{{1,5}}[A-Za-z]? (?:[A-Z][\w'-]+ ){{1,4}}(?:{STREET})\b\.?|\b[A-Z]\w+(?:stra\u00dfe|strasse|gasse|weg|platz) \d{{1,4}}[a-z]?\b"), always),
    "phone": (re.compile(r"(?<![\w.-])(?<!\d )(?:\+\d{1,3}[ .-]?|\(\d{2,5}\)[ .-]?|00?(?=[1-9]))\d{1,5}(?:[ .-]?\d{2,5}){1,4}(?![\w-]|\.\d)|(?<![\w.-])\d{3}[ .-]\d{3}[ .-]\d{4}(?![\w-])"), is_phone),
}  # fmt: skip


def found(text: str) -> list[Found]:
    """The personal data of a text in order, none inside another."""
    taken: list[Found] = []
    for kind, (pattern, check) in RULES.items():
        for match in pattern.finditer(text):
            start, end = match.span()
            free = all(end <= other.start or start >= other.end for other in taken)
            if free and check(match[0]):
                taken.append(Found(kind, start, end))
    return sorted(taken, key=lambda each: each.start)


def masked(text: str) -> str:
    """The text with each piece as its kind: `[email]`."""
    for each in reversed(found(text)):
        text = f"{text[: each.start]}[{each.kind}]{text[each.end :]}"
    return text
