"""Classes of words, each divided once into words of training and held-out words."""

from __future__ import annotations

from dataclasses import dataclass

from metalm_cli.miniworld.english import with_article

MASS_NOUNS = frozenset(
    (
        *("spinach", "broccoli", "celery", "asparagus", "kale", "chalk", "soap", "detergent", "bleach", "shampoo"),
        *("disinfectant", "glue", "rope", "string", "velcro", "scissors", "shears", "clippers", "dice"),
    )
)
"""Nouns that take no article: substances, and nouns in the plural."""


@dataclass(frozen=True, slots=True)
class WordClass:
    """Words with something in common, which no other class has.

    Attributes:
        name: The class in answers, such as ``bird`` or ``musical instrument``.
        trained: Words that training rows use.
        held_out: Words that only validation and test rows use.
    """

    name: str
    trained: tuple[str, ...]
    held_out: tuple[str, ...]

    def words(self, is_training: bool) -> tuple[str, ...]:
        """Return the words of training rows, or those of validation and test rows."""
        return self.trained if is_training else self.held_out


def word_class(name: str, trained: str, held_out: str) -> WordClass:
    """Return a class from its words, separated by spaces."""
    return WordClass(name, tuple(trained.split()), tuple(held_out.split()))


def noun_phrase(noun: str) -> str:
    """Return a noun with its indefinite article, if it takes one.

    >>> noun_phrase("owl"), noun_phrase("spinach")
    ('an owl', 'spinach')
    """
    return noun if noun in MASS_NOUNS else with_article(noun)
