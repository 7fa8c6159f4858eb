"""Sizes, times and cores as people write them.

The words are those of the command line and of a template's manifest.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, TypeAlias

from .errors import InvalidArgument

Size: TypeAlias = int | str
"""Bytes: 65536, "64KiB", "512MiB", "1.5GiB"."""
Duration: TypeAlias = int | float | str | datetime.timedelta
""""250ms", "30s", "1.5m", "2h", a timedelta, or seconds as a number: 30, 0.25."""
Cores: TypeAlias = int | float | str
"""Cores: 1, 0.5; thousandths are the finest."""

# Capitals do not matter, except in the units that are then ambiguous.
_BYTES = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
          "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
          "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_AMBIGUOUS = {(unit + b, "a size"): "a small b after a capital may mean bits"
              for unit in "KMGT" for b in ("b", "ib")}
_AMBIGUOUS["M", "a time"] = "a capital M may mean months"
_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_MILLI = {"": 1000}
_NUMBER = re.compile(r"(\d{1,20}(?:\.\d{1,9})?) ?([A-Za-z]*)")


def _parse(value: object, units: dict[str, int], plain: int, what: str, example: str) -> int:
    error = InvalidArgument(f"{value!r} is not {what}", f"Write it like {example}.")
    exact: Fraction | None = None
    if isinstance(value, str):
        match = _NUMBER.fullmatch(value)
        if match and (match[2], what) in _AMBIGUOUS:
            raise InvalidArgument(f"{value!r} is ambiguous: {_AMBIGUOUS[match[2], what]}", error.advice)
        if match and match[2].lower() in units:
            exact = Fraction(match[1]) * units[match[2].lower()]
    elif isinstance(value, int) and not isinstance(value, bool):
        exact = Fraction(value) * plain
    elif isinstance(value, float) and value == 0:
        exact = Fraction(0)  # the daemon refuses a cap of 0 with a message
    if exact is None or exact < 0 or exact.denominator != 1:
        raise error
    return int(exact)


def parse(name: str, how: Callable[[Any], int], value: object) -> int:
    """The quantity `value` of the option `name`."""
    try:
        return how(value)
    except InvalidArgument as error:
        raise InvalidArgument(f"{name}: {error.message}", error.advice) from None


def parse_bytes(value: Size) -> int:
    return _parse(value, _BYTES, 1, "a size", '"512MiB", "64KiB", "1.5GiB" or 65536')


def parse_ms(value: Duration) -> int:
    if isinstance(value, datetime.timedelta):
        # Rounded up to the finest unit, so that a small time does not become 0.
        return -(-value // datetime.timedelta(milliseconds=1))
    if isinstance(value, float) and 0 < value < 1e12:
        return max(1, round(value * 1000))
    return _parse(value, _MS, 1000, "a time", '"250ms", "30s", "1.5m", "2h" or seconds as a number')


def parse_cores_milli(value: Cores) -> int:
    if isinstance(value, float) and 0 < value < 1e6:
        return max(1, round(value * 1000))
    return _parse(value, _MILLI, 1000, "a number of cores", "0.5, 1 or 2 (thousandths are the finest)")


def parse_count(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidArgument(f"{value!r} is not a whole number", "Write it like 64.")
    return value


def human_bytes(count: int) -> str:
    for name in ("GiB", "MiB", "KiB"):
        unit = _BYTES[name.lower()]
        if count >= unit:
            return f"{count / unit:.4g} {name}"
    return f"{count} bytes"
