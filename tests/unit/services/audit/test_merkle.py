from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.audit import merkle
from services.audit.tiles import TileError, Tiles, TreeReader, tile_path

# The entries of the well-known RFC 6962 test tree, and its roots.
ENTRIES = [
    bytes.fromhex(text)
    for text in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
ROOTS = {
    0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}
LEAVES = [merkle.leaf_hash(b"%d" % number) for number in range(70_000)]


def naive(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, word for word."""
    if len(leaves) < 2:
        return leaves[0] if leaves else merkle.EMPTY_ROOT
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return merkle.node_hash(naive(leaves[:split]), naive(leaves[split:]))


def naive_range(low: int, high: int) -> bytes:
    return naive(LEAVES[low:high])


@pytest.mark.parametrize("size", ROOTS)
def test_roots_of_the_known_tree(size: int) -> None:
    leaves = [merkle.leaf_hash(entry) for entry in ENTRIES[:size]]
    assert merkle.root_of(leaves).hex() == naive(leaves).hex() == ROOTS[size]


@given(st.integers(0, 1_500), st.integers(0, 1_500))
def test_a_tree_that_grows_has_the_root_of_the_definition(first: int, second: int) -> None:
    tree = merkle.Tree()
    tree.extend(LEAVES[:first])
    tree.extend(LEAVES[first : first + second])
    assert tree.root() == naive(LEAVES[: first + second])
    assert [len(edge) for edge in tree.edges] == merkle.edge_lengths(first + second)


@given(st.data())
def test_an_inclusion_proof_holds_for_its_leaf_and_for_nothing_else(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 600))
    index = data.draw(st.integers(0, size - 1))
    root = naive(LEAVES[:size])
    proof = merkle.inclusion_proof(naive_range, index, size)

    def holds(leaf: bytes = LEAVES[index], at: int = index, path: list[bytes] = proof) -> bool:
        return merkle.inclusion_holds(leaf, at, size, path, root)

    assert holds()
    assert not holds(leaf=LEAVES[size])
    assert not holds(path=[*proof, LEAVES[0]])
    other = data.draw(st.integers(-1, size + 1))
    assert holds(at=other) == (other == index)
    if proof:
        assert not holds(path=proof[:-1])
        broken = data.draw(st.integers(0, len(proof) - 1))
        assert not holds(path=[*proof[:broken], LEAVES[-1], *proof[broken + 1 :]])


@given(st.data())
def test_a_consistency_proof_holds_for_its_trees_and_for_no_others(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 600))
    old = data.draw(st.integers(1, size))
    old_root, root = naive(LEAVES[:old]), naive(LEAVES[:size])
    proof = merkle.consistency_proof(naive_range, old, size)
    assert merkle.consistency_holds(old, old_root, size, root, proof)
    assert not merkle.consistency_holds(old, LEAVES[-1], size, root, proof)
    assert not merkle.consistency_holds(old, old_root, size, LEAVES[-1], proof)
    assert not merkle.consistency_holds(old, old_root, size, root, [*proof, root])
    assert not merkle.consistency_holds(size + 1, old_root, size, root, proof)
    if proof:
        assert not merkle.consistency_holds(old, old_root, size, root, proof[:-1])


def test_proofs_of_nothing_are_refused() -> None:
    for index, size in ((0, 0), (5, 5), (-1, 3)):
        with pytest.raises(ValueError, match="no leaf"):
            merkle.inclusion_proof(naive_range, index, size)
    with pytest.raises(ValueError, match="no tree"):
        merkle.consistency_proof(naive_range, 4, 3)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ((0, 0), "tile/0/000"),
        ((1, 1_234_067), "tile/1/x001/x234/067"),
        ((0, 1_000, 17), "tile/0/x001/000.p/17"),
    ],
)
def test_tiles_have_the_names_of_the_layout(path: tuple[int, ...], expected: str) -> None:
    assert tile_path(*path) == expected


@settings(max_examples=25)
@given(st.integers(1, 1_400), st.data())
def test_a_stored_tree_proves_what_a_tree_in_memory_does(
    tmp_path_factory: pytest.TempPathFactory, size: int, data: st.DataObject
) -> None:
    tiles, tree = stored(tmp_path_factory.mktemp("tiles"), size)
    reader = TreeReader(tiles, size)
    index = data.draw(st.integers(0, size - 1))
    proof = merkle.inclusion_proof(reader.range_hash, index, size)
    assert merkle.inclusion_holds(LEAVES[index], index, size, proof, tree.root())
    old = data.draw(st.integers(1, size))
    proof = merkle.consistency_proof(reader.range_hash, old, size)
    assert merkle.consistency_holds(old, naive(LEAVES[:old]), size, tree.root(), proof)
    resumed = merkle.Tree()
    resumed.resume(size, tiles.edges(size))
    resumed.extend(LEAVES[size : size + 300])
    assert resumed.root() == naive(LEAVES[: size + 300])


def test_a_tree_of_three_levels_is_stored_and_read(tmp_path: Path) -> None:
    tiles, tree = stored(tmp_path, 70_000)
    assert tree.root() == naive(LEAVES)
    assert (tmp_path / "tile/1/000").stat().st_size == 256 * 32
    proof = merkle.inclusion_proof(TreeReader(tiles, 70_000).range_hash, 65_537, 70_000)
    assert merkle.inclusion_holds(LEAVES[65_537], 65_537, 70_000, proof, tree.root())


def test_a_tile_that_is_cut_off_is_said_to_be_so(tmp_path: Path) -> None:
    tiles, _ = stored(tmp_path, 10)
    path = tmp_path / tile_path(0, 0, 10)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TileError, match="not whole"):
        tiles.edges(10)
    path.unlink()
    with pytest.raises(TileError, match="cannot be read"):
        tiles.edges(10)


def stored(folder: Path, size: int) -> tuple[Tiles, merkle.Tree]:
    tiles = Tiles(folder)
    tree = merkle.Tree(lambda level, number, hashes: write_quickly(folder, level, number, hashes))
    tree.extend(LEAVES[:size])
    for level, edge in enumerate(tree.edges):
        if edge:
            tiles.write(level, size >> (8 * (level + 1)), edge)
    return tiles, tree


def write_quickly(folder: Path, level: int, number: int, hashes: Sequence[bytes]) -> None:
    """As Tiles.write does, without waiting for the disk."""
    path = folder / tile_path(level, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(hashes))
