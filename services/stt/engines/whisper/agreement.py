"""Which part of a guess stands: what two guesses in a row agree on.

Agreed tokens are forced upon the next guess, so that each partial continues the last one and
decodes only what is new. The final result is decoded without them.

Source: LocalAgreement-2 of Liu et al., 2020; Macháček et al., "Turning Whisper into Real-Time
Transcription System", 2023.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Agreement:
    """`agreed` begins every later guess; `guess` is the last whole one."""

    agreed: Tokens = ()
    guess: Tokens = ()

    def after(self, guess: Tokens, begins_word: Callable[[int], bool]) -> Agreement:
        """Take one more guess. Only whole words are agreed on.

        A guess that contradicts what was agreed is kept for comparison and agrees on nothing new.
        """
        if guess[: len(self.agreed)] != self.agreed:
            return Agreement(self.agreed, guess)
        common = sum(
            1
            for _ in itertools.takewhile(
                lambda pair: pair[0] == pair[1], zip(self.guess, guess, strict=False)
            )
        )
        end = _word_end(guess, common, begins_word)
        return Agreement(guess[: max(end, len(self.agreed))], guess)


def _word_end(guess: Tokens, common: int, begins_word: Callable[[int], bool]) -> int:
    """The last place up to `common` behind which a new word begins. A guess's last word may still
    grow, so the end of the guess is no such place."""
    for end in range(common, 0, -1):
        if end < len(guess) and begins_word(guess[end]):
            return end
    return 0
