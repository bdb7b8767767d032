from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from services.agent.conversation import Conversation, Piece, SpokenWord, ToolCall


def piece(text: str, *, played_ms: int, word_ms: int = 100) -> Piece:
    """A cut piece whose words begin every `word_ms`."""
    ends = [end for end in range(1, len(text) + 1) if end == len(text) or text[end] == " "]
    words = [SpokenWord(end, index * word_ms) for index, end in enumerate(ends)]
    return Piece("m1", text, words=words, made_ms=1_000, played_ms=played_ms, cut=True)


def test_only_words_that_began_to_sound_were_heard() -> None:
    assert piece("one two three", played_ms=150).heard() == "one two"
    assert piece("one two three", played_ms=0).heard() == ""


def test_a_piece_that_was_not_cut_is_heard_in_full() -> None:
    assert Piece("m1", "all of it", finished=True).heard() == "all of it"


def test_without_word_times_the_share_played_counts_whole_words() -> None:
    assert Piece("m", "one two three", made_ms=1_000, played_ms=600, cut=True).heard() == "one two"


@given(st.lists(st.text("abc", min_size=1, max_size=5), min_size=1), st.integers(0, 3_000))
def test_what_was_heard_is_a_prefix_of_whole_words(words: list[str], played_ms: int) -> None:
    text = " ".join(words)
    for heard in (
        piece(text, played_ms=played_ms).heard(),
        Piece("m", text, made_ms=2_000, played_ms=played_ms, cut=True).heard(),
    ):
        assert text.startswith(heard)
        assert heard.split() == words[: len(heard.split())]


def test_a_cut_reply_stands_in_the_history_as_it_was_heard() -> None:
    conversation = Conversation("You are polite.")
    conversation.add_caller("hello")
    entry = conversation.add_agent()
    entry.pieces.append(piece("good morning to you", played_ms=150))
    entry.pieces.append(piece("how are you", played_ms=0))
    assert conversation.messages() == [
        {"role": "system", "content": "You are polite."},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "good morning"},
    ]


def test_a_reply_of_which_nothing_was_heard_leaves_no_message() -> None:
    conversation = Conversation("")
    conversation.add_agent().pieces.append(piece("never", played_ms=0))
    assert [message["role"] for message in conversation.messages()] == ["system"]


def test_tool_calls_are_followed_by_their_results() -> None:
    conversation = Conversation("")
    entry = conversation.add_agent()
    entry.tool_calls += [
        ToolCall(id="a", name="look", arguments="{}"),
        ToolCall(id="b", name="never_run", arguments="{}"),
    ]
    entry.results["a"] = json.dumps({"status": "ok"})
    request, answer = conversation.messages()[1:]
    assert [call["id"] for call in request["tool_calls"]] == ["a"]
    assert answer == {"role": "tool", "tool_call_id": "a", "content": '{"status": "ok"}'}


def test_arguments_that_are_no_object_are_none() -> None:
    for broken in ("[1]", "{", '"x"', "1"):
        assert ToolCall(id="1", name="x", arguments=broken).parsed() is None
    assert ToolCall(id="1", name="x", arguments="").parsed() == {}
