"""Personal data is found by its form and its check digits, and numbers that only look like it are let
be."""

import random

import pytest

from daedal.trust.personal import found, luhn, masked

REAL = {
    "email": ["ann.lee+x@mail.example.co.uk", "a@b.io"],
    "iban": [
        "DE89 3704 0044 0532 0130 00",
        "GB82WEST12345698765432",
        "FR1420041010050500013M02606",
    ],
    "card": ["4111 1111 1111 1111", "378282246310005", "5555-5555-5555-4444"],
    "ssn": ["123-45-6789"],
    "ip": ["8.8.8.8", "2001:db8::ff00:42:8329"],
    "birth": ["born on 3 May 1981", "DOB: 04/12/1970", "date of birth: 1990-01-31"],
    "address": ["221 Baker Street", "10 North Main Ave.", "Hauptstra\u00dfe 12"],
    "phone": ["+44 20 7946 0958", "(212) 555-0142", "030 1234567", "212-555-0142"],
}
INNOCENT = [
    "4111 1111 1111 1112", "DE89 3704 0044 0532 0130 01", "000-12-3456", "version 1.2.3", "127.0.0.1",
    "3.14159265", "in 1984 there were 1,234,567 of 12:30:45", "call me at 5", "a@b", "12 May 1981",
    "order 20240131-7", "10 Big Cats", "::", "the ratio 3:4:5", "0.5 and 0123",
]  # fmt: skip


@pytest.mark.parametrize("kind", REAL)
def test_each_kind_is_found_and_masked(kind):
    for text in REAL[kind]:
        sentence = f"Please note {text}, thanks."
        assert [each.kind for each in found(sentence)] == [kind], text
        assert f"[{kind}]" in masked(sentence) and text not in masked(sentence)


@pytest.mark.parametrize("text", INNOCENT)
def test_what_only_looks_like_it_is_let_be(text):
    assert found(f"It says {text} here.") == []
    assert masked(text) == text


def test_one_digit_in_ten_passes_luhn():
    rng = random.Random(0)
    for _ in range(50):
        stem = "4" + "".join(rng.choices("0123456789", k=14))
        assert sum(luhn(stem + digit) for digit in "0123456789") == 1


def test_several_in_a_text_do_not_overlap():
    text = "Mail a.b@c.org or ring +49 30 901820; card 4111111111111111."
    assert masked(text) == "Mail [email] or ring [phone]; card [card]."
