"""Random inputs from good ones: a seeded mutator that knows what breaks parsers."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence

TOKENS: Sequence[bytes] = (
    b"",
    b"\x00",
    b"\xff\xfe",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b'"',
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b":",
    b"null",
    b"true",
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e999",
    b"-1e999",
    b"-0",
    b"0",
    b"-1",
    b"1.5",
    b"00",
    b"1000000000000",
    b"18446744073709551616",
    b"9223372036854775807",
    b"-9223372036854775809",
    b"1" * 400,
    b'"data"',
    b'"data":[1,2]',
    b'"shape"',
    b'"inputs"',
    b'"parameters":{"binary_data_size":4}',
    b'"binary_data_output":true',
    b"FP16",
    b"BYTES",
    b"INT64",
    b"UINT64",
    b"BOOL",
    b"[" * 200,
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Inference-Header-Content-Length: 10\r\n",
    b"Expect: 100-continue\r\n",
    b"Content-Encoding: gzip\r\n",
    b"HTTP/1.1",
    b"ffffffffffffffff",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80",
    b"\x7f\xff\xff\xff",
)


def mutate(rng: random.Random, seed: bytes, others: Sequence[bytes]) -> bytes:
    """One to five changes."""
    data = bytearray(seed)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        _change(rng, data, others)
    return bytes(data)


def _change(rng: random.Random, data: bytearray, others: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    match rng.randrange(9):
        case 0:  # another byte
            if at < len(data):
                data[at] = rng.randrange(256)
        case 1:  # one bit
            if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
        case 2:  # something known to hurt
            data[at:at] = rng.choice(TOKENS)
        case 3:  # in place of something
            data[at : at + rng.randrange(1, 12)] = rng.choice(TOKENS)
        case 4:  # cut out
            del data[at : at + rng.randrange(1, 30)]
        case 5:  # cut off
            del data[at:]
        case 6:  # twice
            piece = data[at : at + rng.randrange(1, 40)]
            data[at:at] = piece
        case 7:  # a number becomes another
            digits = [n for n, byte in enumerate(data[at : at + 60], start=at) if 48 <= byte <= 57]
            if digits:
                data[digits[0] : digits[0] + 1] = rng.choice(TOKENS[20:33])
        case 8:  # half of another
            other = rng.choice(others)
            data[at:] = other[rng.randrange(len(other) + 1) :]


VALUES: Sequence[str] = (
    *("null", "true", "false", "0", "-1", "1", "1.5", "-0.0", "1e308", "1000000000000"),
    *(str(number) for number in (2**31, 2**63, 2**64, -(2**63) - 1)),
    *('""', '"x"', '"NaN"', '"1"', '"\\u0000"', '"\\ud83d"', f'"{"a" * 300}"'),
    *('"FP32"', '"INT8"', '"BYTES"', '"FP16"', '"BOOL"'),
    *(
        "[]",
        "{}",
        "[[]]",
        "[null]",
        "[1, [2]]",
        '{"a": 1}',
        "[0, 1000000, 1000000]",
        "[-1, 4]",
        str([1] * 50),
    ),
    *('{"binary_data_size": 8}', '{"binary_data_output": true}', '{"binary_data": "yes"}'),
)


def mutate_json(rng: random.Random, seed: bytes) -> bytes:
    """Still JSON, with one to three of its parts replaced, dropped, doubled or renamed."""
    try:
        tree = json.loads(seed)
    except ValueError:
        return seed
    for _ in range(rng.choice((1, 1, 2, 3))):
        node, path = tree, []
        while isinstance(node, dict | list) and node and (not path or rng.random() < 0.8):
            key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
            path.append((node, key))
            node = node[key]
        if not path:
            return rng.choice(VALUES).encode()
        owner, key = path[-1]
        what = rng.randrange(5)
        if what == 0:
            del owner[key]
        elif what == 1 and isinstance(owner, list):
            owner.insert(key, json.loads(json.dumps(owner[key])))
        elif what == 1:
            owner[rng.choice(("data", "shape", "name", "id", "parameters", "outputs", key + "x"))] = owner[
                key
            ]
        else:
            owner[key] = json.loads(rng.choice(VALUES))
    return json.dumps(tree).encode()


def inputs(seeds: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """The seeds themselves, then `count` mutations of them; some that made it far are mutated again."""
    rng = random.Random(seed)
    pool = list(seeds)
    yield from pool
    for _ in range(count):
        # Half of them from good ones: of a million, all others have been broken many times over.
        parent = rng.choice(pool if rng.random() < 0.5 else seeds)
        found = (
            mutate_json(rng, parent)
            if parent[:1] == b"{" and rng.random() < 0.4
            else mutate(rng, parent, seeds)
        )
        if rng.random() < 0.005 and len(found) < 4000:
            if len(pool) < 500:
                pool.append(found)
            else:
                pool[rng.randrange(len(seeds), 500)] = found
        yield found


def pieces(rng: random.Random, data: bytes) -> list[bytes]:
    """As a network may cut it."""
    if rng.random() < 0.6 or len(data) < 2:
        return [data]
    cuts = sorted(rng.randrange(len(data)) for _ in range(rng.choice((1, 2, 5))))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]
