"""What a piece of work keeps allocated, as the C library counts it.

Resident memory would not tell: what one model gave back, the next one takes without growing the process.
"""

from __future__ import annotations

import ctypes
from typing import Any


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks",
            "keepcost",
        )
    ]  # fmt: skip


def _find(name: str) -> Any:
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None  # a C library other than glibc 2.33 or later


_mallinfo2, _malloc_trim = _find("mallinfo2"), _find("malloc_trim")
if _mallinfo2 is not None:
    _mallinfo2.restype = _Mallinfo2


def give_back() -> None:
    """What was freed goes back to the system; the C library keeps what lies between pieces in use."""
    if _malloc_trim is not None:
        _malloc_trim(ctypes.c_size_t(0))


def allocated_bytes() -> int:
    """In use now, in all of malloc's arenas and in blocks of their own; 0 where it cannot be told."""
    if _mallinfo2 is None:
        return 0
    found = _mallinfo2()
    return int(found.uordblks + found.hblkhd)


class Measured:
    """`with Measured() as measured: …`; what others allocate meanwhile counts too, so one at a time."""

    bytes = 0

    def __enter__(self) -> Measured:
        self._before = allocated_bytes()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bytes = max(0, allocated_bytes() - self._before)
