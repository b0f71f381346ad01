"""Display of rows: the input at every position, docked content, and predicted tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from metalm_cli.sessions.packing import Row
from metalm_cli.sessions.processors import DockInput, Processor

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, Group
    from rich.table import Table
    from rich.text import Text

CONTEXT_TOKENS = 4
"""Number of preceding tokens decoded with a token, so that its spaces and split characters are correct."""
DOCK_STYLES = ("white on blue", "black on yellow", "white on magenta", "black on cyan")
"""Styles of docked content, in the order of the model's encoders."""
TRAINED_STYLE, READ_STYLE, SPECIAL_STYLE, MASKED_STYLE = "green", "dim", "magenta", "white on red"


@dataclass(frozen=True)
class Position:
    """Position of a row, for display.

    Args:
        row_position: Index in the row.
        segment: Segment of the position.
        position: Index in its session.
        text: Text of the token that is read; at a dock, of the encoder's token.
        special: The token is a special token.
        trained: The token is a prediction target (in a masked row: predicted at this position).
        dock: Encoder name, index of the dock in the row, and index in the dock; None for the model's own tokens.
        predicts: Texts of the targets that its output predicts.
    """

    row_position: int
    segment: int
    position: int
    text: str
    special: bool = False
    trained: bool = False
    dock: tuple[str, int, int] | None = None
    predicts: tuple[str, ...] = ()


def token_texts(tokenizer: Any, ids: Iterable[int]) -> list[str]:
    """Return the text that each token adds to the preceding ones, or the name of a special token.

    A character whose bytes span several tokens belongs to the last of them.
    """
    special = set(tokenizer.all_special_ids)
    texts: list[str] = []
    recent: list[int] = []
    for token in map(int, ids):
        if token in special:
            texts.append(str(tokenizer.convert_ids_to_tokens(token)))
            recent = []
            continue
        before = _decode(tokenizer, recent).rstrip("�")
        recent = [*recent, token]
        after = _decode(tokenizer, recent)
        if not after.startswith(before):  # the tokenizer's decoder changes the preceding text
            before, after = "", _decode(tokenizer, [token])
        # Bytes of an incomplete character are decoded as U+FFFD, and left out until the character is complete.
        texts.append("" if after.endswith("�") else after[len(before) :])
        if not after.endswith("�"):
            recent = recent[-CONTEXT_TOKENS:]
    return texts


def _decode(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False) if ids else ""


def positions_of(
    row: Row, tokenizer: Any, processors: Mapping[str, Processor], *, masked: bool = False
) -> list[Position]:
    """Return every position of a row.

    Args:
        row: The row.
        tokenizer: Tokenizer of the row's tokens.
        processors: Processors of the encoders that the row docks into, by name.
        masked: The row belongs to an encoder that trains alone: a position predicts its own original token.
    """
    special = set(tokenizer.all_special_ids)
    docked = {
        start + offset: (number, offset)
        for number, (start, dock) in enumerate(row.docks)
        for offset in range(dock.positions)
    }
    read_ids = _unmasked_ids(row) if masked else row.ids
    texts = _decoder_texts(row, read_ids, tokenizer, docked.keys())
    dock_texts = [_dock_texts(dock, processors[dock.encoder]) for _, dock in row.docks]
    positions = []
    for index in range(len(row)):
        position = Position(index, int(row.segments[index]), int(row.positions[index]), texts[index])
        if index in docked:
            number, offset = docked[index]
            position = replace(
                position, text=dock_texts[number][offset], dock=(row.docks[number][1].encoder, number, offset)
            )
        else:
            position = replace(position, special=int(row.ids[index]) in special)
        positions.append(position)
    return _with_originals(row, tokenizer, positions) if masked else _with_targets(row, positions)


def _unmasked_ids(row: Row) -> np.ndarray:
    """Return the original tokens of a masked row."""
    ids = row.ids.copy()
    ids[row.predict_at] = row.targets
    return ids


def _decoder_texts(row: Row, ids: np.ndarray, tokenizer: Any, docked: Any) -> list[str]:
    """Decode the model's own tokens, each segment separately; docks have empty texts."""
    texts = [""] * len(row)
    for segment in range(len(row.parents)):
        indices = [index for index in np.flatnonzero(row.segments == segment).tolist() if index not in docked]
        for index, text in zip(indices, token_texts(tokenizer, ids[indices]), strict=True):
            texts[index] = text
    return texts


def _dock_texts(dock: DockInput, processor: Processor) -> list[str]:
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None:
        return [""] * dock.positions
    texts = token_texts(tokenizer, dock.arrays["input_ids"])
    return [texts[index] for index in dock.output_positions]


def _with_targets(row: Row, positions: list[Position]) -> list[Position]:
    for predicting, segment in zip(row.predict_at.tolist(), row.target_segments.tolist(), strict=True):
        # The first token of a child is predicted at the last position of its parent.
        same_segment = row.segments[predicting] == segment
        target = predicting + 1 if same_segment else int(np.flatnonzero(row.segments == segment)[0])
        positions[target] = replace(positions[target], trained=True)
        positions[predicting] = replace(
            positions[predicting], predicts=(*positions[predicting].predicts, positions[target].text)
        )
    return positions


def _with_originals(row: Row, tokenizer: Any, positions: list[Position]) -> list[Position]:
    for index in row.predict_at.tolist():
        (text,) = token_texts(tokenizer, [row.ids[index]])
        positions[index] = replace(positions[index], text=text, trained=True, predicts=(positions[index].text,))
    return positions


class RowView:
    """View of a row, as text or as a table of its positions.

    Args:
        row: The row.
        tokenizer: Tokenizer of the row's tokens: the decoder's, or that of an encoder that trains alone.
        processors: Processors by encoder name.
        masked: The row belongs to an encoder that trains alone.
        plain: Mark kinds by brackets instead of colours.
        document_name: Returns the name of the document at an index plan number.
    """

    def __init__(
        self,
        row: Row,
        tokenizer: Any,
        processors: Mapping[str, Processor],
        *,
        masked: bool = False,
        plain: bool = False,
        document_name: Callable[[int], str] | None = None,
    ) -> None:
        self.row, self.masked, self.plain, self.document_name = row, masked, plain, document_name
        self.encoders = list(processors)
        self.positions = positions_of(row, tokenizer, {} if masked else processors, masked=masked)

    def style(self, encoder: str) -> str:
        return DOCK_STYLES[self.encoders.index(encoder) % len(DOCK_STYLES)]

    # -- text ---------------------------------------------------------------------------------------------------------

    def text(self) -> Group:
        """Render the sessions of the row below each other, each with a header line."""
        from rich.console import Group

        blocks: list[Any] = []
        for segment, members in groupby(self.positions, key=lambda position: position.segment):
            segment_positions = list(members)
            blocks += [self._boundary(segment, segment_positions), _IndentedText(self._session(segment_positions)), ""]
        return Group(*blocks[:-1])

    def summary(self) -> str:
        """Summarise the row in one line."""
        row, sessions = self.row, len(self.row.parents)
        facts = [f"{len(row):,} positions", f"{sessions} session{'s' if sessions != 1 else ''}"]
        facts.append(f"{len(row.targets):,} {'masked' if self.masked else 'trained'}")
        if row.docks:
            facts.append(f"{len(row.docks)} docked in {sum(dock.positions for _, dock in row.docks):,} positions")
        for key, description in (
            ("cut_spans", "cut by the row's end"),
            ("empty_spans", "empty"),
            ("too_long_spans", "too long"),
        ):
            if row.counts.get(key):
                facts.append(f"{row.counts[key]} span{'s' if row.counts[key] != 1 else ''} {description}")
        return " · ".join(facts)

    def _boundary(self, segment: int, positions: list[Position]) -> Text:
        from rich.text import Text

        line = f"── session {segment + 1} · positions {positions[0].row_position}-{positions[-1].row_position}"
        parent = int(self.row.parents[segment])
        if parent >= 0:
            line += f" · continues session {parent + 1}"
        numbers = self.row.numbers
        # Isolated documents are sessions of their own; otherwise all documents form one session.
        own_numbers = numbers if len(self.row.parents) == 1 else numbers[segment : segment + 1]
        if self.document_name is not None and len(own_numbers) and len(numbers) >= len(self.row.parents):
            line += " · " + "; ".join(map(self.document_name, own_numbers))
        return Text(line, style="dim" if not self.plain else "")

    def _session(self, positions: list[Position]) -> Text:
        from rich.text import Text

        text = Text()
        for kind, members in groupby(positions, key=_display_kind):
            run = list(members)
            if isinstance(kind, tuple):
                text.append_text(self._docked(run))
            elif self.masked:
                for position in run:
                    text.append_text(self._maybe_masked(position))
            else:
                text.append_text(self._causal(run))
        return text

    def _docked(self, run: list[Position]) -> Text:
        from rich.text import Text

        assert run[0].dock is not None
        encoder, number, _ = run[0].dock
        content = escape_controls("".join(position.text for position in run)).replace("\n", " ")
        space, content = " " * content.startswith(" "), content.strip(" ")
        if not content:
            shape = next(iter(self.row.docks[number][1].arrays.values())).shape
            content = f"image {' x '.join(map(str, shape))}"
        if self.plain:
            return Text(f"{space}[{encoder} {len(run)}: {content}]")
        style = self.style(encoder)
        return Text.assemble(space, (f" {encoder} {len(run)} ", f"bold reverse {style}"), (f" {content} ", style))

    def _causal(self, run: list[Position]) -> Text:
        from rich.text import Text

        text = Text()
        trained = run[0].trained
        for special, members in groupby(run, key=lambda position: position.special):
            content = "".join(
                _special_label(position.text) if special else escape_controls(position.text) for position in members
            )
            if self.plain and not trained:
                content = f"{{{content}}}"
            text.append(
                content,
                ("bold " if special else "") + (TRAINED_STYLE if trained else SPECIAL_STYLE if special else READ_STYLE),
            )
        return text

    def _maybe_masked(self, position: Position) -> Text:
        from rich.text import Text

        content = _special_label(position.text) if position.special else escape_controls(position.text)
        if not position.trained:
            return Text(content, "magenta" if position.special else "")
        original = escape_controls(position.predicts[0]).replace("\n", "")
        space = " " * original.startswith(" ")
        original = original.strip(" ") or "␣"
        content = content.strip(" ") or "␣"
        if self.plain:
            return Text(f"{space}({content}={original})")
        return Text.assemble(space, (content, MASKED_STYLE), (f"={original}", f"bold {TRAINED_STYLE}"))

    # -- positions ----------------------------------------------------------------------------------------------------

    def table(self, *, narrow: bool = False) -> Table:
        """Render a table with the input and the predictions of every position.

        Args:
            narrow: Omit the column of positions within the session.
        """
        from rich.table import Table

        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
        table.add_column("row", justify="right", no_wrap=True)
        if not narrow:
            table.add_column("session", justify="right", no_wrap=True)
        table.add_column("reads", overflow="fold")
        table.add_column("predicts", overflow="fold")
        last = 0
        for position in self.positions:
            if position.segment != last:
                last = position.segment
                table.add_row("──", *([] if narrow else ["──"]), f"session {last + 1}", "", style="dim")
            session_cell = [] if narrow else [f"{position.segment + 1}:{position.position}"]
            table.add_row(str(position.row_position), *session_cell, self._reads(position), self._predicts(position))
        return table

    def _reads(self, position: Position) -> Text:
        from rich.text import Text

        if position.dock is not None:
            encoder, number, offset = position.dock
            label = f"{encoder} {offset + 1}/{self.row.docks[number][1].positions}"
            return Text(
                f"{label} {position.text!r}" if position.text else label, "" if self.plain else self.style(encoder)
            )
        text = _special_label(position.text) if position.special else repr(position.text)
        if self.masked:
            return Text(text, MASKED_STYLE if position.trained else SPECIAL_STYLE if position.special else "")
        return Text(text, TRAINED_STYLE if position.trained else SPECIAL_STYLE if position.special else READ_STYLE)

    def _predicts(self, position: Position) -> Text:
        from rich.text import Text

        return (
            Text(", ".join(map(repr, position.predicts)), TRAINED_STYLE) if position.predicts else Text("-", READ_STYLE)
        )


class _IndentedText:
    """Text indented by two columns, without trailing spaces."""

    def __init__(self, text: Text) -> None:
        self.text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        from rich.text import Text

        for line in self.text.wrap(console, max(1, options.max_width - 2)):
            line.rstrip()
            yield Text("  ").append_text(line)


def _display_kind(position: Position) -> Any:
    return position.dock[:2] if position.dock is not None else position.trained


def _special_label(name: str) -> str:
    """Mark a special token, to distinguish it from text that spells it."""
    return f"‹{name}›"


def escape_controls(text: str) -> str:
    """Make line ends visible, and escape characters that control a terminal."""
    return "".join(_escape_char(char) for char in text)


def _escape_char(char: str) -> str:
    if char == "\n":
        return "↵\n"
    if char == "\t":
        return "⇥ "
    return char if char.isprintable() else f"\\x{ord(char):02x}"


def legend(encoders: Sequence[str], *, objective: str, plain: bool = False) -> Text:
    """Render the legend of the marks.

    Args:
        encoders: Names of the encoders that are docked.
        objective: Name of the objective.
        plain: As in :class:`RowView`.
    """
    from rich.text import Text

    entries = list(_masked_legend(objective, plain) if objective in ("mlm", "rtd") else _legend(encoders, plain))
    text = Text()
    width = max(len(sample) for sample, _, _ in entries)
    for index, (sample, style, meaning) in enumerate(entries):
        text.append("\n" if index else "")
        text.append(sample, style if not plain else "")
        text.append(f"{' ' * (width - len(sample))}  {meaning}")
    return text


LegendEntry = tuple[str, str, str]


def _legend(encoders: Sequence[str], plain: bool) -> Iterator[LegendEntry]:
    for index, encoder in enumerate(encoders):
        sample = f"[{encoder} n: …]" if plain else f" {encoder} n  … "
        yield sample, DOCK_STYLES[index % len(DOCK_STYLES)], f"docked: read by the encoder {encoder!r}, in n positions"
    yield "trained", TRAINED_STYLE, "read by the decoder, and predicted by the previous position"
    yield "{read}" if plain else "read", READ_STYLE, "read by the decoder, not predicted"
    yield "‹s›", f"bold {SPECIAL_STYLE}", "a special token"


def _masked_legend(objective: str, plain: bool) -> Iterator[LegendEntry]:
    sample = "(read=original)" if plain else "read=original"
    meaning = "a masked token, and its original, which is predicted"
    if objective == "rtd":
        meaning = "a masked token; the generator fills it, the encoder classifies tokens as original or replaced"
    yield sample, MASKED_STYLE, meaning
    yield "‹s›", SPECIAL_STYLE, "a special token"
