"""Breaks bytes and JSON in the ways that break parsers; the same seed, the same damage."""

import json
from collections.abc import Iterator
from copy import deepcopy
from random import Random
from typing import Any, Final

# What a field may suddenly hold.
NASTY: Final = (
    None,
    True,
    -1,
    0,
    2**31,
    2**63,
    2**70,
    10**4000,
    1.5,
    1e308,
    float("inf"),
    float("nan"),
    "",
    " ",
    "\0",
    "\ud800",
    "../../etc/passwd",
    "/etc/passwd",
    "C:\\windows",
    "CON",
    "a" * 100_000,
    "sha256:" + "0" * 64,
    "{missing}",
    "{",
    [],
    {},
    [[]],
    [None] * 1000,
    {"": None},
)
_DEPTH: Final = 100_000


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a JSON value with each of its keys or indexes."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def break_json(value: Any, random: Random) -> Any:
    """A copy with one or a few fields changed, lost or added."""
    broken = deepcopy(value)
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        found = list(places(broken))
        if not found:
            return broken
        container, key = random.choice(found)
        action = random.randrange(4)
        if action == 0:
            del container[key]
        elif action == 1 and isinstance(container, dict):
            container[random.choice(("", "extra", "\ud800", str(key) + " "))] = container[key]
        elif action == 2:
            container[key] = [deepcopy(container[key])] * 2
        else:
            container[key] = deepcopy(random.choice(NASTY))
    return broken


def break_bytes(data: bytes, random: Random) -> bytes:
    """The bytes with a few flipped, some cut, doubled or filled; now and then very deep JSON."""
    broken = bytearray(data)
    action = random.randrange(7)
    at = random.randrange(len(broken) + 1)
    if action == 0:
        for _ in range(random.choice((1, 2, 16))):
            broken[random.randrange(len(broken))] ^= 1 << random.randrange(8)
    elif action == 1:
        del broken[at:]
    elif action == 2:
        del broken[at : at + random.randrange(64)]
    elif action == 3:
        broken[at:at] = broken[at : at + random.randrange(1, 256)]
    elif action == 4:
        width = random.choice((1, 2, 4, 8))
        broken[at : at + width] = random.choice((b"\xff", b"\0", b"\x80", b"\x7f")) * width
    elif action == 5:
        broken[at:at] = random.choice((b"[", b'{"a":')) * _DEPTH
    else:
        broken[at:at] = b"9" * 5000
    return bytes(broken)


def broken_json_bytes(value: Any, random: Random) -> bytes:
    """A JSON document, broken in its values or in its bytes."""
    if random.randrange(3):
        return json.dumps(break_json(value, random), ensure_ascii=random.random() < 0.5).encode(
            errors="surrogatepass"
        )
    return break_bytes(json.dumps(value).encode(), random)
