"""Long inputs in windows: a field that is too long for an encoder is split into consecutive docks."""

from __future__ import annotations

from metalm_cli.data.examples.truncation import MAX_SPECIAL_TOKENS, EncoderLimit, LengthLimits, last_break
from metalm_cli.sessions import Causal, Docked, Session

MAX_TOKEN_LENGTH = 16
"""Characters of a window for each token that its encoders read; a longer stretch is not tried."""


def split_into_windows(session: Session, text: str, limits: LengthLimits) -> Session:
    """Split docks that are too long for the encoders into several docks.

    A dock is split into windows that fit the encoders; where it contains the text of the long field, the content
    around the text gets docks of its own. The concatenated docks have the same characters as before.

    Args:
        session: A session with the text in one of its docks.
        text: The text of the long field.
        limits: Length limits of the encoders.

    Returns:
        The session with split docks; unchanged if its docks fit.
    """
    encoder_limits = list(limits.encoder_limits.values())
    spans: list[Causal | Docked] = []
    for span in session:
        content = span.content if isinstance(span, Docked) and isinstance(span.content, str) else ""
        fits = all(encoder_limit.tokens(content) <= encoder_limit.length for encoder_limit in encoder_limits)
        if not isinstance(span, Docked) or fits:
            spans.append(span)
            continue
        pieces = content.partition(text) if content.count(text) == 1 else (content,)
        windows = [window for piece in pieces for window in encoder_windows(piece, encoder_limits)]
        spans += [Docked(span.encoder, window) for window in _merge_blank(windows)]
    return Session(spans, session.name)


def encoder_windows(text: str, encoder_limits: list[EncoderLimit]) -> list[str]:
    """Split a text into consecutive windows, each as long as all encoders allow, after white space where it is near.

    Example:
        >>> class Letters:
        ...     length = 9
        ...     def tokens(self, text): return len(text)
        >>> encoder_windows("one two three four", [Letters()])
        ['one ', 'two ', 'three', ' four']
    """
    windows: list[str] = []
    start = 0
    while start < len(text):
        size = _window_size(text[start:], encoder_limits)
        windows.append(text[start : start + size])
        start += size
    return windows


def _window_size(text: str, encoder_limits: list[EncoderLimit]) -> int:
    """Characters of the first window of a text."""
    rooms = [max(1, encoder_limit.length - MAX_SPECIAL_TOKENS) for encoder_limit in encoder_limits]
    size = min(len(text), MAX_TOKEN_LENGTH * min(rooms, default=len(text)))
    while size > 1:
        excess = max(
            (limit.tokens(text[:size]) / room for limit, room in zip(encoder_limits, rooms, strict=True)), default=0
        )
        if excess <= 1:
            break
        size = max(1, min(size - 1, int(size / excess)))
    if size == len(text):
        return size
    space = last_break(text, size)
    return space + 1 if space < size else size


def _merge_blank(windows: list[str]) -> list[str]:
    """Merge blank windows, which an encoder would read as empty, into their neighbour."""
    merged: list[str] = []
    for window in windows:
        if merged and (not window.strip() or not merged[-1].strip()):
            merged[-1] += window
        elif window:
            merged.append(window)
    return merged
