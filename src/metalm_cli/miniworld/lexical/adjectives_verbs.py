"""Adjectives of praise and blame, and groups of synonyms. No word is in two of these classes."""

from __future__ import annotations

from typing import NamedTuple

from metalm_cli.miniworld.lexical.word_class import WordClass, word_class

OPINIONS: dict[str, WordClass] = {
    opinion.name: opinion
    for opinion in (
        word_class(
            "positive",
            "good nice lovely excellent pleasant charming impressive fabulous terrific outstanding splendid great "
            "delightful enjoyable wonderful",
            "superb magnificent fantastic brilliant amazing marvellous perfect stunning",
        ),
        word_class(
            "negative",
            "bad dull boring poor unpleasant ghastly lousy tedious mediocre abysmal nasty awful terrible "
            "disappointing dismal",
            "hideous dreadful horrible pathetic disgusting appalling atrocious miserable",
        ),
    )
}
"""Adjectives that say whether somebody liked an event or a work."""


class Synonyms(NamedTuple):
    """Words of about the same meaning, as training rows or held-out rows use them."""

    trained: tuple[tuple[str, ...], ...]
    held_out: tuple[tuple[str, ...], ...]

    def groups(self, is_training: bool) -> tuple[tuple[str, ...], ...]:
        """Return the groups of training rows, or those of validation and test rows."""
        return self.trained if is_training else self.held_out


def _groups(words: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(group.split()) for group in words.split("|"))


SYNONYMS: dict[str, Synonyms] = {
    "person": Synonyms(
        _groups(
            "happy glad joyful|sad unhappy sorrowful|tired weary exhausted|old elderly|polite courteous|"
            "careful cautious|funny humorous|brave courageous fearless|clever smart intelligent|"
            "famous renowned celebrated|thin slim slender|ill sick unwell|calm relaxed|jealous envious"
        ),
        _groups(
            "angry furious enraged|wicked evil|rich wealthy affluent|frightened scared terrified|"
            "lazy idle|honest truthful|stubborn obstinate|confused puzzled bewildered"
        ),
    ),
    "thing": Synonyms(
        _groups(
            "big large|quick fast rapid|easy simple|wet soaked|noisy loud|heavy weighty|hard difficult|"
            "silent quiet|necessary essential|broken damaged|round circular|strong sturdy robust|dirty filthy grimy"
        ),
        _groups(
            "strange odd weird|expensive costly pricey|dangerous hazardous risky|hidden concealed|"
            "genuine authentic|empty vacant|shiny glossy|fragile delicate"
        ),
    ),
    "action": Synonyms(
        _groups(
            "bought purchased|repaired mended|began started commenced|finished completed|collected gathered|"
            "loved adored|lifted raised hoisted|changed altered modified|copied duplicated|"
            "washed cleaned|discussed debated|threw tossed hurled|built constructed"
        ),
        _groups(
            "destroyed ruined wrecked|hated loathed detested|forbade prohibited banned|postponed delayed deferred|"
            "comprehended understood|predicted foretold|imitated mimicked|examined inspected|ignored disregarded"
        ),
    ),
}
"""Groups of synonyms that fit the same sentences. A word of another group always changes the meaning."""
