"""The Huffman code of RFC 7541, decoding only: we never send Huffman-coded strings.

The code is canonical, so the lengths of the 257 codes say all there is. A byte is decoded in one look-up
of (node in the code tree, byte) -> (next node, symbols); the look-ups fill as they are needed, because
filling all 65,792 at import would take 60 ms of the cold start and real headers touch some hundred.
"""

from __future__ import annotations

_LENGTHS = (
    "13,23,28*7,24,30,28*2,30,28*8,30,28*9,6,10*2,12,13,6,8,11,10*2,8,11,8,6*3,5*3,6*7,7,8,15,6,12,10,13,"
    "6,7*22,8,7,8,13,19,13,14,6,15,5,6,5,6,5,6*3,5,7*2,6*3,5,6,7,6,5*2,6,7*5,15,11,14,13,28,20,22,20*2,"
    "22*3,23,22,23*5,24,23,24*2,22,23,24,23*4,21,22,23,22,23*2,24,22,21,20,22*2,23*2,21,23,22*2,24,21,22,"
    "23*2,21*2,22,21,23,22,23*2,20,22*3,23,22*2,23,26*2,20,19,22,23,22,25,26*3,27*2,26,24,25,19,21,26,"
    "27*2,26,27,24,21*2,26*2,28,27*3,20,24,20,21,22,21*2,23,22*2,25*2,24*2,26,23,26,27,26*2,27*5,28,27*5,"
    "26,30"
)
_END_OF_STRING = 256
_ROOT = 1


def _leaves() -> dict[int, int]:
    """Code with a leading 1 bit (so that leading zeros count) -> symbol."""
    lengths: list[int] = []
    for item in _LENGTHS.split(","):
        length, _, count = item.partition("*")
        lengths += [int(length)] * int(count or 1)
    leaves: dict[int, int] = {}
    code, before = -1, 0
    for bits, symbol in sorted((bits, symbol) for symbol, bits in enumerate(lengths)):
        code = (code + 1) << (bits - before)
        before = bits
        leaves[1 << bits | code] = symbol
    return leaves


_LEAVES = _leaves()
_STEPS: dict[int, tuple[int, bytes]] = {}
# A string may end inside a code only if what is left is at most 7 bits, all ones.
_MAY_END = frozenset((1 << count) - 1 for count in range(1, 9))


def _step(node: int, byte: int) -> tuple[int, bytes]:
    symbols = bytearray()
    for shift in range(7, -1, -1):
        node = node << 1 | (byte >> shift & 1)
        symbol = _LEAVES.get(node)
        if symbol is not None:
            if symbol == _END_OF_STRING:
                raise ValueError("the end-of-string symbol stands inside a Huffman-coded string")
            symbols.append(symbol)
            node = _ROOT
    return node, bytes(symbols)


def decode(coded: bytes) -> bytes:
    """ValueError, with the reason, if it is no Huffman-coded string."""
    node = _ROOT
    pieces: list[bytes] = []
    steps = _STEPS
    for byte in coded:
        key = node << 8 | byte
        found = steps.get(key)
        if found is None:
            found = steps[key] = _step(node, byte)
        node, symbols = found
        pieces.append(symbols)
    if node not in _MAY_END:
        raise ValueError("a Huffman-coded string ends inside a symbol, or its padding is not ones")
    return b"".join(pieces)
