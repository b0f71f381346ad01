"""Exchange of docks between the examples of a task: what a score owes to the contents of the docks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from metalm_cli.errors import MetalmError
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.sessions import Docked, Session

ALL = "all"
"""The docks of all encoders are exchanged."""


def check_exchange(language_model: LanguageModel, encoder: str) -> None:
    """Check that a model has the encoder whose docks are exchanged.

    Raises:
        MetalmError: It has not.
    """
    encoders = list(language_model.processors)
    if not encoders or encoder not in (ALL, *encoders):
        raise MetalmError(
            f"no docks of {encoder} can be exchanged",
            where="--exchange-docks",
            why=f"the encoders of the model: {', '.join(encoders) or 'none'}",
            remedy="name one of them, or all" if encoders else "leave the option out",
        )


def exchange_docks(sessions: Sequence[Session], own_spans: Sequence[int], encoder: str, seed: int) -> list[Session]:
    """Give each session the dock contents of another, the rest stays.

    A session takes them from the next one, in an order drawn by the seed, that has as many docks of the same encoders
    and not the same contents. Demonstrations keep their own.

    Args:
        sessions: Sessions of the examples of a task, without answers.
        own_spans: For each session, the number of spans at its end that belong to the example itself.
        encoder: Name of the encoder whose docks are exchanged, or :data:`ALL`.
        seed: Seed of the order.

    Raises:
        MetalmError: A session has no docks to exchange, or no other session has as many with other contents.
    """
    docks = [
        [
            span
            for span in session.spans[len(session) - count :]
            if isinstance(span, Docked) and _is_exchanged(span, encoder)
        ]
        for session, count in zip(sessions, own_spans, strict=True)
    ]
    groups: dict[tuple[str, ...], list[int]] = {}
    for index in np.random.default_rng(seed).permutation(len(sessions)).tolist():
        groups.setdefault(tuple(dock.encoder for dock in docks[index]), []).append(index)
    donors = {
        index: donor
        for group in groups.values()
        for position, index in enumerate(group)
        if (donor := _next_other(docks, group, position)) is not None
    }
    alone = [session.name for index, session in enumerate(sessions) if index not in donors]
    if alone:
        raise MetalmError(
            f"docks of {len(alone)} of {len(sessions)} examples cannot be exchanged",
            where=f"--exchange-docks: {alone[0]}",
            why="they have none, or no other example has as many with other contents",
            remedy="evaluate more examples (--limit), or tasks that dock their inputs",
        )
    return [
        _with_docks(session, count, encoder, docks[donors[index]])
        for index, (session, count) in enumerate(zip(sessions, own_spans, strict=True))
    ]


def _is_exchanged(dock: Docked, encoder: str) -> bool:
    return encoder in (ALL, dock.encoder)


def _next_other(docks: Sequence[Sequence[Docked]], group: Sequence[int], position: int) -> int | None:
    """Index of the next session of a group, in a circle, that has other contents; None if there is none."""
    own = [dock.content for dock in docks[group[position]]]
    following = (group[(position + step) % len(group)] for step in range(1, len(group)))
    return next((index for index in following if own and [dock.content for dock in docks[index]] != own), None)


def _with_docks(session: Session, own_spans: int, encoder: str, docks: Sequence[Docked]) -> Session:
    contents = iter(docks)
    start = len(session) - own_spans
    spans = [
        replace(span, content=next(contents).content)
        if index >= start and isinstance(span, Docked) and _is_exchanged(span, encoder)
        else span
        for index, span in enumerate(session)
    ]
    return Session(spans, session.name)
