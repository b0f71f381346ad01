"""Long inputs in windows: a field that no encoder reads at once becomes consecutive docks."""

from __future__ import annotations

from metalm_cli.data.examples.truncation import SPECIAL, EncoderLimit, LengthLimits
from metalm_cli.sessions import Causal, Docked, Session


def split_into_windows(session: Session, text: str, limits: LengthLimits) -> Session:
    """A session whose dock holds a long text, with the text in docks of its own.

    What stands around the text is docked apart, and the text in windows that its encoder reads, cut at spaces. Read by
    a decoder, all docks together are the same characters as before.

    Args:
        session: With the text in one of its docks.
        text: The text of the long field.
        limits: The encoders that read it.

    Returns:
        The session as it was if its docks fit, or if the text stands in none of them exactly once.
    """
    length = min((reader.length for reader in limits.encoder_limits.values()), default=None)
    spans: list[Causal | Docked] = []
    for span in session:
        whole = span.content if isinstance(span, Docked) and isinstance(span.content, str) else ""
        fits = length is None or all(reader.tokens(whole) <= reader.length for reader in limits.encoder_limits.values())
        if not isinstance(span, Docked) or fits or whole.count(text) != 1:
            spans.append(span)
            continue
        before, _, after = whole.partition(text)
        pieces = [before, *encoder_windows(text, list(limits.encoder_limits.values())), after]
        spans += [Docked(span.encoder, piece) for piece in _joined(pieces)]
    return Session(spans, session.name)


def encoder_windows(text: str, readers: list[EncoderLimit]) -> list[str]:
    """Consecutive slices of a text, each as long as all encoders can read it, cut after spaces where there are any.

    Example:
        >>> class Letters:
        ...     length = 9
        ...     def tokens(self, text): return len(text)
        >>> encoder_windows("one two three four", [Letters()])
        ['one ', 'two ', 'three', ' four']
    """
    found: list[str] = []
    while text:
        size = len(text)
        while not all(reader.tokens(text[:size]) <= reader.length - SPECIAL for reader in readers):
            worst = max(reader.tokens(text[:size]) / max(1, reader.length - SPECIAL) for reader in readers)
            size = min(size - 1, int(size / worst)) or 1
            if size == 1:
                break
        space = text.rfind(" ", 0, size) + 1
        size = space if size < len(text) and space else size
        found.append(text[:size])
        text = text[size:]
    return found


def _joined(pieces: list[str]) -> list[str]:
    """Pieces that an encoder would read as empty go to their neighbour."""
    found: list[str] = []
    for piece in pieces:
        if found and (not piece.strip() or not found[-1].strip()):
            found[-1] += piece
        elif piece:
            found.append(piece)
    return found
