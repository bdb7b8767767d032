#!/usr/bin/env python3
"""Checks one call's evidence file, offline, with nothing but Python's standard library.

    python3 verify_evidence.py EVIDENCE.json [--key name+hash+key]

Give the log's verifier key as you have noted it elsewhere; without --key the one inside the file is
used, which shows only that the file is whole. Exit status: 0 it holds, 1 it cannot be read, 3 it
does not hold.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import sys
from typing import Any

FORMAT = "landline-evidence-1"
CANNOT_SHOW = (
    "that no other record of this call was left out of the file",
    "that the writer recorded what really happened",
    "that the log was not rolled back before: compare its checkpoint with a witness's",
    "the time from anything but the machine's own clock",
)
TAIL = 76  # ,"~hash":"<64>"}

# Ed25519 (RFC 8032, section 5.1), verification only.
P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
Point = tuple[int, int, int, int]


def add(a: Point, b: Point) -> Point:
    """Sum of two points in extended coordinates (RFC 8032, section 5.1.4)."""
    e = (a[1] - a[0]) * (b[1] - b[0]) % P
    f = (a[1] + a[0]) * (b[1] + b[0]) % P
    g = 2 * a[3] * b[3] * D % P
    h = 2 * a[2] * b[2] % P
    return (
        (f - e) * (h - g) % P,
        (h + g) * (f + e) % P,
        (h - g) * (h + g) % P,
        (f - e) * (f + e) % P,
    )


def multiply(number: int, point: Point) -> Point:
    result = (0, 1, 1, 0)
    while number:
        if number & 1:
            result = add(result, point)
        point = add(point, point)
        number >>= 1
    return result


def decode_point(data: bytes) -> Point:
    """The point that 32 bytes stand for; ValueError when they stand for none."""
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (1 << 255) - 1
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if y >= P or (x * x - square) % P or (x == 0 and sign):
        raise ValueError("no point of the curve")
    if x & 1 != sign:
        x = P - x
    return (x, y, 1, x * y % P)


def encode_point(point: Point) -> bytes:
    inverse = pow(point[2], -1, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def signature_holds(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether this is an Ed25519 signature of `message`."""
    if len(public) != 32 or len(signature) != 64:
        return False
    s = int.from_bytes(signature[32:], "little")
    if s >= ORDER:
        return False
    try:
        x, y, z, t = decode_point(public)
    except ValueError:
        return False
    digest = hashlib.sha512(signature[:32] + public + message).digest()
    h = int.from_bytes(digest, "little") % ORDER
    base = decode_point((4 * pow(5, -1, P) % P).to_bytes(32, "little"))
    found = add(multiply(s, base), multiply(h, (P - x, y, z, P - t)))
    return encode_point(found) == signature[:32]


# Signed notes and checkpoints (c2sp.org/signed-note, c2sp.org/tlog-checkpoint).


class EvidenceFailedError(Exception):
    """The evidence does not hold; the message says what."""


def read_key(text: str) -> tuple[str, bytes, bytes]:
    """Name, key id and public key of name+hash+key."""
    name, found, encoded = text.strip().split("+", 2)
    data = base64.b64decode(encoded)
    identity = hashlib.sha256(name.encode() + b"\n" + data).digest()[:4]
    if identity.hex() != found or data[:1] != b"\x01":
        raise EvidenceFailedError("the verifier key is damaged")
    return name, identity, data[1:]


def read_checkpoint(note: str, key: str) -> tuple[int, bytes]:
    """Size and root of a checkpoint that the key has signed."""
    name, identity, public = read_key(key)
    text, _, signatures = note.partition("\n\n")
    for line in signatures.splitlines():
        words = line.split(" ")
        if len(words) == 3 and words[0] == "\N{EM DASH}" and words[1] == name:
            data = base64.b64decode(words[2])
            signed = (text + "\n").encode()
            if data[:4] == identity and signature_holds(public, signed, data[4:]):
                origin, size, root = text.split("\n")[:3]
                if origin != name:
                    raise EvidenceFailedError("the checkpoint is of another log than the key")
                return int(size), base64.b64decode(root)
    raise EvidenceFailedError("the checkpoint has no good signature of " + name)


# Inclusion in the Merkle tree (RFC 9162, section 2.1.3.2).


def root_from(leaf: bytes, index: int, size: int, proof: list[bytes]) -> bytes:
    """The root that a proof leads to; EvidenceFailedError when its length does not fit the tree."""
    node, last, result = index, size - 1, leaf
    if not 0 <= index < size:
        raise EvidenceFailedError("it claims a place outside the tree")
    for item in proof:
        if last == 0:
            raise EvidenceFailedError("its proof is too long")
        if node & 1 or node == last:
            result = hashlib.sha256(b"\x01" + item + result).digest()
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            result = hashlib.sha256(b"\x01" + result + item).digest()
        node, last = node >> 1, last >> 1
    if last:
        raise EvidenceFailedError("its proof is too short")
    return result


def check(evidence: dict[str, Any], key: str | None = None) -> list[dict[str, Any]]:
    """The call's records, checked; EvidenceFailedError when anything does not hold."""
    if evidence["format"] != FORMAT:
        raise EvidenceFailedError(f"this script reads {FORMAT}, not {evidence['format']!r}")
    size, root = read_checkpoint(evidence["checkpoint"], key or evidence["verifier_key"])
    records: list[dict[str, Any]] = []
    numbers: dict[str, int] = {}
    for item in evidence["records"]:
        line = item["line"].encode()
        record = json.loads(line)
        where = f"record {record['seq']} of {record['writer']}"
        leaf = hashlib.sha256(b"\x00" + line[:-TAIL] + b"}").digest()
        if line[-TAIL:] != b',"~hash":"%b"}' % leaf.hex().encode():
            raise EvidenceFailedError(where + ": its hash does not fit its content")
        if record["call_id"] != evidence["call_id"]:
            raise EvidenceFailedError(where + ": it is of another call")
        proof = [base64.b64decode(part) for part in item["proof"]]
        try:
            found = root_from(leaf, item["leaf"], size, proof)
        except EvidenceFailedError as error:
            raise EvidenceFailedError(f"{where}: {error}") from None
        if found != root:
            raise EvidenceFailedError(where + ": it is not in the log's tree")
        if numbers.get(record["writer"], -1) >= record["seq"]:
            raise EvidenceFailedError(where + ": it stands in the wrong place")
        numbers[record["writer"]] = record["seq"]
        records.append(record)
    if not records:
        raise EvidenceFailedError("it holds no records")
    return records


def main() -> int:
    parser = argparse.ArgumentParser(description="Checks one call's evidence file, offline.")
    parser.add_argument("file")
    parser.add_argument("--key", help="the log's verifier key, as noted elsewhere")
    arguments = parser.parse_args()
    try:
        with open(arguments.file, encoding="utf-8") as file:
            evidence = json.load(file)
        records = check(evidence, arguments.key)
    except EvidenceFailedError as error:
        print(f"DOES NOT HOLD: {error}")
        return 3
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        print(f"this is no evidence file: {error!r}")
        return 1
    for record in records:
        print(record["seq"], record["time_unix_ms"], record["type"], json.dumps(record["fields"]))
    types = [record["type"] for record in records]
    ends = "from its start" if "call_started" in types else "WITHOUT its start"
    ends += " to its end" if "call_ended" in types else ", WITHOUT its end"
    print(f"HOLDS: {len(records)} records of call {evidence['call_id']}, {ends}")
    if arguments.key is None:
        print(f"The key was taken from the file itself: compare {evidence['verifier_key']}")
    for limit in CANNOT_SHOW:
        print(f"Cannot show: {limit}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
