from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from services.audit import notes, verify_evidence, witness

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
CHECKPOINT = notes.Checkpoint("landline.local/north", 1234, bytes(range(32)))
VERIFIER = notes.verifier_of("landline.local/north", KEY)


def test_a_known_verifier_key_of_another_log_is_read() -> None:
    text = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
    key = notes.parse_verifier_key(text)
    assert (key.name, key.id.hex(), str(key)) == ("sum.golang.org", "033de0ae", text)


def test_a_checkpoint_is_written_as_the_format_says() -> None:
    text, _, signatures = notes.sign(CHECKPOINT, KEY).partition("\n\n")
    assert text.split("\n") == [
        "landline.local/north",
        "1234",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    ]
    assert signatures.startswith("\N{EM DASH} landline.local/north ")
    assert notes.open_checkpoint(notes.sign(CHECKPOINT, KEY), VERIFIER) == CHECKPOINT


@given(st.data())
def test_a_changed_checkpoint_is_refused(data: st.DataObject) -> None:
    note = notes.sign(CHECKPOINT, KEY)
    at = data.draw(st.integers(0, len(note) - 2))
    new = data.draw(st.characters(exclude_categories=["Cs"]))
    changed = note[:at] + new + note[at + 1 :]
    try:
        opened = notes.open_checkpoint(changed, VERIFIER)
    except notes.NoteError:
        return
    assert opened == CHECKPOINT, "only what is not signed may change"


def test_another_key_and_another_name_are_refused() -> None:
    note = notes.sign(CHECKPOINT, KEY)
    stranger = notes.verifier_of("landline.local/north", Ed25519PrivateKey.generate())
    for verifier in (stranger, notes.verifier_of("landline.local/south", KEY)):
        with pytest.raises(notes.NoteError, match="no good signature"):
            notes.open_checkpoint(note, verifier)
    for text in ("", "a+b", f"{VERIFIER}x", str(VERIFIER).replace("north", "south")):
        with pytest.raises(notes.NoteError):
            notes.parse_verifier_key(text)


def test_a_witness_adds_its_own_signature_with_the_time() -> None:
    own = Ed25519PrivateKey.generate()
    note = notes.cosign(notes.sign(CHECKPOINT, KEY), "tower", own, 1_795_248_000)
    assert notes.open_checkpoint(note, VERIFIER) == CHECKPOINT
    assert notes.open_checkpoint(note, notes.witness_of("tower", own)) == CHECKPOINT
    with pytest.raises(notes.NoteError):
        notes.open_checkpoint(note, notes.verifier_of("tower", own))


def test_a_printed_root_is_read_again() -> None:
    assert CHECKPOINT.short() == "1234-AAAQ-EAYE-AUDA-OCAJ"
    assert witness.printed(" 1234-aaaq-eaye-auda-ocaj ").agrees(CHECKPOINT)
    assert not witness.printed("1234-AAAQ-EAYE-AUDA-OCAA").agrees(CHECKPOINT)
    for text in ("1234", "x-AAAQ-EAYE-AUDA-OCAJ", "1234-AAAQ-EAYE-AUDA"):
        with pytest.raises(witness.WitnessError, match="is no printed root"):
            witness.printed(text)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=80), st.data())
def test_the_script_s_own_ed25519_agrees_with_the_library(
    seed: bytes, message: bytes, data: st.DataObject
) -> None:
    key = Ed25519PrivateKey.from_private_bytes(seed)
    public, signature = key.public_key().public_bytes_raw(), key.sign(message)
    assert verify_evidence.signature_holds(public, message, signature)
    at = data.draw(st.integers(0, 511))
    flipped = bytearray(signature)
    flipped[at // 8] ^= 1 << at % 8
    assert not verify_evidence.signature_holds(public, message, bytes(flipped))
    assert not verify_evidence.signature_holds(public, message + b"!", signature)


def test_the_script_s_ed25519_on_the_vectors_of_rfc_8032() -> None:
    public = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
    signature = bytes.fromhex(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert verify_evidence.signature_holds(public, b"\x72", signature)
    order_added = (int.from_bytes(signature[32:], "little") + verify_evidence.ORDER).to_bytes(
        32, "little"
    )
    assert not verify_evidence.signature_holds(public, b"\x72", signature[:32] + order_added)
