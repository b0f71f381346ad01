"""Long inputs in windows: a field that is too long for an encoder is split into consecutive docks."""

from __future__ import annotations

from metalm_cli.data.examples.truncation import MAX_SPECIAL_TOKENS, EncoderLimit, LengthLimits
from metalm_cli.sessions import Causal, Docked, Session


def split_into_windows(session: Session, text: str, limits: LengthLimits) -> Session:
    """Split the dock that contains a long text into several docks.

    The text is split at spaces into windows that fit the encoders; the content around it gets docks of its own. The
    concatenated docks have the same characters as before.

    Args:
        session: A session with the text in one of its docks.
        text: The text of the long field.
        limits: Length limits of the encoders.

    Returns:
        The session with split docks; unchanged if its docks fit, or if no dock contains the text exactly once.
    """
    min_length = min((encoder_limit.length for encoder_limit in limits.encoder_limits.values()), default=None)
    spans: list[Causal | Docked] = []
    for span in session:
        content = span.content if isinstance(span, Docked) and isinstance(span.content, str) else ""
        fits = min_length is None or all(
            encoder_limit.tokens(content) <= encoder_limit.length for encoder_limit in limits.encoder_limits.values()
        )
        if not isinstance(span, Docked) or fits or content.count(text) != 1:
            spans.append(span)
            continue
        before, _, after = content.partition(text)
        windows = [before, *encoder_windows(text, list(limits.encoder_limits.values())), after]
        spans += [Docked(span.encoder, window) for window in _merge_blank(windows)]
    return Session(spans, session.name)


def encoder_windows(text: str, encoder_limits: list[EncoderLimit]) -> list[str]:
    """Split a text into consecutive windows, each as long as all encoders allow, after spaces where possible.

    Example:
        >>> class Letters:
        ...     length = 9
        ...     def tokens(self, text): return len(text)
        >>> encoder_windows("one two three four", [Letters()])
        ['one ', 'two ', 'three', ' four']
    """
    windows: list[str] = []
    while text:
        size = len(text)
        while not all(
            encoder_limit.tokens(text[:size]) <= encoder_limit.length - MAX_SPECIAL_TOKENS
            for encoder_limit in encoder_limits
        ):
            excess = max(
                encoder_limit.tokens(text[:size]) / max(1, encoder_limit.length - MAX_SPECIAL_TOKENS)
                for encoder_limit in encoder_limits
            )
            size = min(size - 1, int(size / excess)) or 1
            if size == 1:
                break
        space = text.rfind(" ", 0, size) + 1
        size = space if size < len(text) and space else size
        windows.append(text[:size])
        text = text[size:]
    return windows


def _merge_blank(windows: list[str]) -> list[str]:
    """Merge blank windows, which an encoder would read as empty, into their neighbour."""
    merged: list[str] = []
    for window in windows:
        if merged and (not window.strip() or not merged[-1].strip()):
            merged[-1] += window
        elif window:
            merged.append(window)
    return merged
