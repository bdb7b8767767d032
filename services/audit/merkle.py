"""Merkle tree hashing and proofs of RFC 6962 section 2.1, verified as RFC 9162 section 2.1 does."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    RangeHash = Callable[
        [int, int], bytes
    ]  # root over the leaves from the first to before the last

TILE = 256  # hashes in a full tile (tlog-tiles: height 8)
EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    return sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()


def root_of(hashes: Sequence[bytes]) -> bytes:
    """Root over leaf hashes, or over the roots of full subtrees of one size, the last one any."""
    if not hashes:
        return EMPTY_ROOT
    level = list(hashes)
    while len(level) > 1:
        odd = [level.pop()] if len(level) % 2 else []
        pairs = iter(level)
        level = [
            sha256(b"\1" + left + right).digest() for left, right in zip(pairs, pairs, strict=True)
        ]
        level += odd
    return level[0]


class Tree:
    """An append-only tree that keeps only its right edge: one unfinished tile for each level.

    `on_tile(level, number, hashes)` is told of each tile that becomes full.
    """

    def __init__(
        self, on_tile: Callable[[int, int, Sequence[bytes]], None] = lambda *_: None
    ) -> None:
        self.size = 0
        self.edges: list[list[bytes]] = [[]]
        self._full = [0]
        self._on_tile = on_tile

    def extend(self, leaves: Sequence[bytes]) -> None:
        """Append leaf hashes."""
        start, end = 0, len(leaves)
        while start < end:
            edge = self.edges[0]
            room = TILE - len(edge)
            edge.extend(leaves[start : start + room])
            start += room
            if len(edge) == TILE:
                self._carry(0)
        self.size += end

    def root(self) -> bytes:
        """Root of everything appended so far."""
        below: list[bytes] = []
        for edge in self.edges:
            hashes = [*edge, *below]
            below = [root_of(hashes)] if hashes else []
        return below[0] if below else EMPTY_ROOT

    def _carry(self, level: int) -> None:
        """The tile of this level is full: its root belongs to the level above."""
        if level + 1 == len(self.edges):
            self.edges.append([])
            self._full.append(0)
        edge = self.edges[level]
        self._on_tile(level, self._full[level], edge)
        self._full[level] += 1
        self.edges[level] = []
        above = self.edges[level + 1]
        above.append(root_of(edge))
        if len(above) == TILE:
            self._carry(level + 1)

    def resume(self, size: int, edges: list[list[bytes]]) -> None:
        """Go on where a tree of this size stood; `edges` as that tree had them."""
        self.size = size
        self.edges = [list(edge) for edge in edges] or [[]]
        self._full = [size >> (8 * (level + 1)) for level in range(len(self.edges))]


def edge_lengths(size: int) -> list[int]:
    """How many hashes the unfinished tile of each level holds in a tree of this size."""
    lengths = [size % TILE]
    while size := size // TILE:
        lengths.append(size % TILE)
    return lengths


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1


def inclusion_proof(hash_of: RangeHash, index: int, size: int) -> list[bytes]:
    """PATH(index, D[size]) of RFC 6962 section 2.1.1."""
    if not 0 <= index < size:
        raise ValueError(f"there is no leaf {index} in a tree of {size}")
    low, high, path = 0, size, []
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            path.append(hash_of(middle, high))
            high = middle
        else:
            path.append(hash_of(low, middle))
            low = middle
    return path[::-1]


def consistency_proof(hash_of: RangeHash, old: int, size: int) -> list[bytes]:
    """PROOF(old, D[size]) of RFC 6962 section 2.1.2; empty when the two are equal."""
    if not 0 < old <= size:
        raise ValueError(f"there is no tree of {old} inside one of {size}")
    low, high, whole, path = 0, size, True, []
    while old != high:
        middle = low + _split(high - low)
        if old <= middle:
            path.append(hash_of(middle, high))
            high = middle
        else:
            path.append(hash_of(low, middle))
            low, whole = middle, False
    if not whole:
        path.append(hash_of(low, high))
    return path[::-1]


def inclusion_holds(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> bool:
    """RFC 9162 section 2.1.3.2."""
    if not 0 <= index < size:
        return False
    node, last, result = index, size - 1, leaf
    for item in proof:
        if last == 0:
            return False
        if node % 2 or node == last:
            result = node_hash(item, result)
            while node % 2 == 0 and node:
                node, last = node >> 1, last >> 1
        else:
            result = node_hash(result, item)
        node, last = node >> 1, last >> 1
    return last == 0 and result == root


def consistency_holds(
    old: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]
) -> bool:
    """RFC 9162 section 2.1.4.2."""
    if not 0 < old <= size:
        return False
    if old == size:
        return not proof and old_root == root
    path = list(proof)
    if old & (old - 1) == 0:
        path.insert(0, old_root)
    if not path:
        return False
    node, last = old - 1, size - 1
    while node % 2:
        node, last = node >> 1, last >> 1
    first = second = path[0]
    for item in path[1:]:
        if last == 0:
            return False
        if node % 2 or node == last:
            first, second = node_hash(item, first), node_hash(item, second)
            while node % 2 == 0 and node:
                node, last = node >> 1, last >> 1
        else:
            second = node_hash(second, item)
        node, last = node >> 1, last >> 1
    return last == 0 and first == old_root and second == root
