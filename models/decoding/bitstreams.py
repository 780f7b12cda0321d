"""What the bitstreams inside AVIF and HEIC really ask of their decoders.

A container may state a small image around a bitstream of huge frames, or hold thousands of
pictures of a few bytes where one belongs, and the decoders work through all of them. So size and
number are read from the bitstream itself: AV1 Bitstream & Decoding Process Specification, 5.3
to 5.5; ITU-T H.265, 7.3.1 and 7.3.6.
"""

from __future__ import annotations

from models.decoding.common import corrupt

_SEQUENCE_HEADER = 1
_FRAME_HEADER, _FRAME = 3, 6
_MAX_UNITS = 10_000

MAX_PICTURES = 16
"""Pictures in one coded image: one as a rule, a few for one with progressive layers."""


class _Bits:
    """Reads big-endian bit fields; raises ``ImageRejected`` at the end of the data."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def read(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise corrupt("an AV1 sequence header is too short")
        return (self._value >> self._left) & ((1 << count) - 1)

    def skip_uvlc(self) -> None:
        zeros = 0
        while not self.read(1):
            zeros += 1
        if zeros < 32:
            self.read(zeros)


def check_hevc(data: bytes, length_size: int) -> None:
    """Refuse an HEVC item of more than ``MAX_PICTURES`` pictures.

    ``length_size``: bytes of the length in front of each unit.
    """
    at = pictures = 0
    for _ in range(_MAX_UNITS):
        start = at + length_size
        if start + 3 > len(data):
            return
        # Coded slices have types below 32; the bit behind the header marks a picture's first.
        if data[start] >> 1 & 63 < 32 and data[start + 2] & 0x80:
            pictures += 1
            if pictures > MAX_PICTURES:
                raise corrupt("one HEVC image holds many pictures, a sign of a decoder trap")
        at = start + int.from_bytes(data[at:start], "big")
    raise corrupt(f"it has more than {_MAX_UNITS:,} HEVC units")


def largest_av1_frame(data: bytes) -> tuple[int, int]:
    """Return the largest frame (width, height) that any sequence header in ``data`` allows.

    (0, 0) where there is no sequence header; such data cannot be decoded. More than
    ``MAX_PICTURES`` frames, hidden ones included, are refused.
    """
    best, at, frames = (0, 0), 0, 0
    for _ in range(_MAX_UNITS):
        if at >= len(data):
            return best
        head = data[at]
        at += 2 if head & 0x04 else 1
        size, at = _leb128(data, at) if head & 0x02 else (len(data) - at, at)
        kind = head >> 3 & 15
        frames += kind in (_FRAME_HEADER, _FRAME)
        if frames > MAX_PICTURES:
            raise corrupt("one AV1 image holds many frames, a sign of a decoder trap")
        if kind == _SEQUENCE_HEADER:
            frame = _frame_size(_Bits(data[at : at + min(size, 256)]))
            best = max(best[0], frame[0]), max(best[1], frame[1])
        at += size
    raise corrupt(f"it has more than {_MAX_UNITS:,} AV1 units")


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(data[at : at + 8]):
        value |= (byte & 0x7F) << (7 * index)
        if not byte & 0x80:
            return value, at + index + 1
    raise corrupt("the length of an AV1 unit is damaged")


def _frame_size(bits: _Bits) -> tuple[int, int]:
    bits.read(4)  # seq_profile, still_picture
    if bits.read(1):  # reduced_still_picture_header
        bits.read(5)
    else:
        _skip_operating_points(bits)
    across, down = bits.read(4) + 1, bits.read(4) + 1
    return bits.read(across) + 1, bits.read(down) + 1


def _skip_operating_points(bits: _Bits) -> None:
    delay_bits = 0
    if bits.read(1):  # timing_info_present_flag
        bits.read(64)
        if bits.read(1):  # equal_picture_interval
            bits.skip_uvlc()
        if bits.read(1):  # decoder_model_info_present_flag
            delay_bits = bits.read(5) + 1
            bits.read(32 + 5 + 5)
    display_delay = bits.read(1)
    for _ in range(bits.read(5) + 1):
        bits.read(12)
        if bits.read(5) > 7:  # seq_level_idx
            bits.read(1)
        if delay_bits and bits.read(1):
            bits.read(2 * delay_bits + 1)
        if display_delay and bits.read(1):
            bits.read(4)
