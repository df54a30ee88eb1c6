"""Tunes as MIDI files (the Standard MIDI File 1.0, format 0): one track, its tempo, metre, key, program
and notes."""

import struct
from itertools import pairwise

from daedal.media.score import MODES, WHOLE, Tune, beat_of, signature

DIVISION = WHOLE // 4 * 20  # MIDI's ticks in a crotchet, 20 to one of ours
SCALE = DIVISION * 4 // WHOLE


def write(tune: Tune, program: int = 0, velocity: int = 90) -> bytes:
    """The bytes of a file of the tune, repeats played out."""
    beats = beat_of(tune.metre)
    crotchet = round(60_000_000 / tune.bpm * (WHOLE // 4) / beats)  # microseconds
    power = tune.metre[1].bit_length() - 1
    sharps = sum(signature(tune.tonic, tune.mode).values())
    minor = int(MODES[tune.mode][1] == -3)
    events: list[tuple[int, bytes]] = [
        (0, meta(0x03, tune.title.encode())),
        (0, meta(0x51, crotchet.to_bytes(3, "big"))),
        (0, meta(0x58, bytes([tune.metre[0], power, 24 * beats * 4 // WHOLE, 8]))),
        (0, meta(0x59, struct.pack("bB", sharps, minor))),
        (0, bytes([0xC0, program])),
    ]
    at = 0
    for note in tune.played():
        if note.pitch is not None:
            events.append((at * SCALE, bytes([0x90, note.pitch, velocity])))
            events.append(((at + note.ticks) * SCALE, bytes([0x80, note.pitch, 0])))
        at += note.ticks
    events.append((at * SCALE, meta(0x2F, b"")))
    # a note ends before the next of its pitch begins
    events.sort(key=lambda event: (event[0], event[1][0] == 0x90, event[1][:2] == b"\xff\x2f"))
    times = [0, *(time for time, _ in events)]
    waits = [b - a for a, b in pairwise(times)]
    track = b"".join(length(wait) + event for wait, (_, event) in zip(waits, events, strict=True))
    head = b"MThd" + struct.pack(">IHHH", 6, 0, 1, DIVISION)
    return head + b"MTrk" + struct.pack(">I", len(track)) + track


def meta(kind: int, data: bytes) -> bytes:
    return bytes([0xFF, kind]) + length(len(data)) + data


def length(value: int) -> bytes:
    """A number in groups of seven bits, the last without the top bit."""
    out = [value & 0x7F]
    while value := value >> 7:
        out.append(0x80 | value & 0x7F)
    return bytes(reversed(out))
