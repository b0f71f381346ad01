"""Display of rows: the input at every position, docked content, and predicted tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle, groupby
from typing import Any

import numpy as np
from rich.console import Console, ConsoleOptions, Group
from rich.table import Table
from rich.text import Text

from metalm_cli.common.table import counted
from metalm_cli.sessions.packing import Row
from metalm_cli.sessions.pair_display import pair_positions
from metalm_cli.sessions.pairs import ENCODER
from metalm_cli.sessions.positions import Position, token_texts
from metalm_cli.sessions.processors import DockInput, Processor

DOCK_STYLES = ("white on blue", "black on yellow", "white on magenta", "black on cyan")
"""Styles of docked content, in the order of the model's encoders."""
TRAINED_STYLE, READ_STYLE, SPECIAL_STYLE, MASKED_STYLE = "green", "dim", "magenta", "white on red"


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
    if row.source is not None:
        return pair_positions(row, tokenizer)
    texts = [""] * len(row)
    docks: dict[int, tuple[str, int, int]] = {}
    for number, (start, dock) in enumerate(row.docks):
        for offset, text in enumerate(_dock_texts(dock, processors[dock.encoder])):
            texts[start + offset] = text
            docks[start + offset] = (dock.encoder, number, offset)
    ids = row.ids.copy()
    if masked:
        ids[row.predict_at] = row.targets
    for segment in range(len(row.parents)):
        indices = [index for index in np.flatnonzero(row.segments == segment).tolist() if index not in docks]
        for index, text in zip(indices, token_texts(tokenizer, ids[indices]), strict=True):
            texts[index] = text
    trained: set[int] = set()
    predicts: dict[int, tuple[str, ...]] = {}
    for predicting, segment in zip(row.predict_at.tolist(), row.target_segments.tolist(), strict=True):
        target = predicting
        if not masked:  # the first token of a child is predicted at the last position of its parent
            same_segment = row.segments[predicting] == segment
            target = predicting + 1 if same_segment else int(np.flatnonzero(row.segments == segment)[0])
        trained.add(target)
        predicts[predicting] = (*predicts.get(predicting, ()), texts[target])
    for index in trained if masked else ():
        (texts[index],) = token_texts(tokenizer, [row.ids[index]])
    special = set(tokenizer.all_special_ids)
    return [
        Position(
            row_position=index,
            segment=int(row.segments[index]),
            position=int(row.positions[index]),
            text=texts[index],
            special=index not in docks and int(row.ids[index]) in special,
            trained=index in trained,
            dock=docks.get(index),
            predicts=predicts.get(index, ()),
        )
        for index in range(len(row))
    ]


def _dock_texts(dock: DockInput, processor: Processor) -> list[str]:
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None:
        return [""] * dock.positions
    texts = token_texts(tokenizer, dock.arrays["input_ids"])
    texts = [texts[index] for index in dock.output_positions]
    if dock.compressed is None:
        return texts
    compression = getattr(processor, "compression", None)
    factor = len(texts) if compression is None else compression.settings.get("factor", len(texts))
    groups = ["".join(texts[start : start + factor]) for start in range(0, len(texts), factor)]
    return [*groups, *[""] * dock.positions][: dock.positions]


def _image_label(dock: DockInput) -> str:
    """Name the size of a docked image, and the number of encoder outputs if it is not that of positions."""
    pixels = dock.arrays.get("pixel_values")
    size = "" if pixels is None else f" {pixels.shape[-2]} x {pixels.shape[-1]}"
    return f"image{size}" + (f", {len(dock.output_positions)} outputs" if dock.compressed is not None else "")


class ColourMarks:
    """Renderer that marks kinds of positions by colours."""

    boundary_style = "dim"
    dock_styles: Sequence[str] = DOCK_STYLES

    def docked(self, label: str, content: str, style: str) -> Text:
        return Text.assemble((f" {label} ", f"bold reverse {style}"), (f" {content} ", style))

    def untrained(self, content: str) -> str:
        return content

    def masked(self, content: str, original: str) -> Text:
        return Text.assemble((content, MASKED_STYLE), (f"={original}", f"bold {TRAINED_STYLE}"))


class PlainMarks(ColourMarks):
    """Renderer that marks kinds of positions by brackets."""

    boundary_style = ""
    dock_styles = ("",)

    def docked(self, label: str, content: str, style: str) -> Text:
        return Text(f"[{label}: {content}]")

    def untrained(self, content: str) -> str:
        return f"{{{content}}}"

    def masked(self, content: str, original: str) -> Text:
        return Text(f"({content}={original})")


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
        self.row, self.masked, self.document_name = row, masked, document_name
        self.marks = PlainMarks() if plain else ColourMarks()
        names = [*processors] if row.source is None else [ENCODER]
        self.dock_styles = dict(zip(names, cycle(self.marks.dock_styles), strict=False))
        self.positions = positions_of(row, tokenizer, {} if masked else processors, masked=masked)

    # -- text ---------------------------------------------------------------------------------------------------------

    def text(self) -> Group:
        """Render the sessions of the row below each other, each with a header line."""
        blocks: list[Any] = []
        for segment, members in groupby(self.positions, key=lambda position: position.segment):
            segment_positions = list(members)
            blocks += [self._boundary(segment, segment_positions), _IndentedText(self._session(segment_positions)), ""]
        return Group(*blocks[:-1])

    def summary(self) -> str:
        """Summarise the row in one line."""
        row, sessions = self.row, len(self.row.parents)
        facts = [f"{len(row):,} positions", counted(sessions, "session")]
        facts.append(f"{len(row.targets):,} {'masked' if self.masked else 'trained'}")
        if row.docks:
            docked = f"{len(row.docks)} docked in {sum(dock.positions for _, dock in row.docks):,} positions"
            outputs = sum(len(dock.output_positions) for _, dock in row.docks)
            is_compressed = any(dock.compressed is not None for _, dock in row.docks)
            facts.append(docked + (f" for {outputs:,} encoder outputs" if is_compressed else ""))
        for key, description in (
            ("cut_spans", "cut by the row's end"),
            ("empty_spans", "empty"),
            ("too_long_spans", "too long"),
        ):
            if row.counts.get(key):
                facts.append(f"{counted(row.counts[key], 'span')} {description}")
        return " · ".join(facts)

    def _boundary(self, segment: int, positions: list[Position]) -> Text:
        line = f"── session {segment + 1} · positions {positions[0].row_position}-{positions[-1].row_position}"
        parent = int(self.row.parents[segment])
        if parent >= 0:
            line += f" · continues session {parent + 1}"
        numbers = self.row.numbers
        # Isolated documents are sessions of their own; otherwise all documents form one session.
        own_numbers = numbers if len(self.row.parents) == 1 else numbers[segment : segment + 1]
        if self.document_name is not None and len(own_numbers) and len(numbers) >= len(self.row.parents):
            line += " · " + "; ".join(map(self.document_name, own_numbers))
        return Text(line, style=self.marks.boundary_style)

    def _session(self, positions: list[Position]) -> Text:
        text = Text()
        for _, members in groupby(
            positions, key=lambda position: (position.dock and position.dock[:2], position.trained)
        ):
            run = list(members)
            render = self._docked if run[0].dock is not None else self._masked if self.masked else self._causal
            text.append_text(render(run))
        return text

    def _docked(self, run: list[Position]) -> Text:
        assert run[0].dock is not None
        encoder, number, _ = run[0].dock
        content = escape_controls("".join(position.text for position in run)).replace("\n", " ")
        space, content = " " * content.startswith(" "), content.strip(" ")
        if not content and self.row.docks:
            content = _image_label(self.row.docks[number][1])
        return Text(space).append_text(self.marks.docked(f"{encoder} {len(run)}", content, self.dock_styles[encoder]))

    def _causal(self, run: list[Position]) -> Text:
        text = Text()
        for special, members in groupby(run, key=lambda position: position.special):
            content = "".join(map(_label, members))
            content = content if run[0].trained else self.marks.untrained(content)
            text.append(content, ("bold " if special else "") + _style(run[0].trained, special))
        return text

    def _masked(self, run: list[Position]) -> Text:
        text = Text()
        for position in run:
            content = _label(position)
            if not position.trained:
                text.append(content, SPECIAL_STYLE if position.special else "")
                continue
            original = escape_controls(position.predicts[0]).replace("\n", "")
            text.append(" " * original.startswith(" "))
            text.append_text(self.marks.masked(content.strip(" ") or "␣", original.strip(" ") or "␣"))
        return text

    # -- positions ----------------------------------------------------------------------------------------------------

    def table(self, *, narrow: bool = False) -> Table:
        """Render a table with the input and the predictions of every position.

        Args:
            narrow: Omit the column of positions within the session.
        """
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
            style = TRAINED_STYLE if position.predicts else READ_STYLE
            predicts = Text(", ".join(map(repr, position.predicts)) or "-", style)
            table.add_row(str(position.row_position), *session_cell, self._reads(position), predicts)
        return table

    def _reads(self, position: Position) -> Text:
        if position.dock is not None:
            encoder, number, offset = position.dock
            source = self.row.source
            size = self.row.docks[number][1].positions if source is None else (source.segments == number).sum()
            label = f"{encoder} {offset + 1}/{size}"
            return Text(f"{label} {position.text!r}" if position.text else label, self.dock_styles[encoder])
        text = _label(position) if position.special else repr(position.text)
        if self.masked:
            return Text(text, MASKED_STYLE if position.trained else SPECIAL_STYLE if position.special else "")
        return Text(text, _style(position.trained, position.special))


class _IndentedText:
    """Text indented by two columns, without trailing spaces."""

    def __init__(self, text: Text) -> None:
        self.text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        for line in self.text.wrap(console, max(1, options.max_width - 2)):
            line.rstrip()
            yield Text("  ").append_text(line)


def _style(trained: bool, special: bool) -> str:
    return TRAINED_STYLE if trained else SPECIAL_STYLE if special else READ_STYLE


def _label(position: Position) -> str:
    """Mark a special token, to distinguish it from text that spells it."""
    return f"‹{position.text}›" if position.special else escape_controls(position.text)


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
    marks = PlainMarks() if plain else ColourMarks()
    if objective in ("mlm", "rtd"):
        meaning = "a masked token, and its original, which is predicted"
        if objective == "rtd":
            meaning = "a masked token; the generator fills it, the encoder classifies tokens as original or replaced"
        entries = [(marks.masked("read", "original").plain, MASKED_STYLE, meaning)]
        special_style = SPECIAL_STYLE
    else:
        meaning = "docked: read by the encoder {!r}, in n positions"
        entries = [
            (marks.docked(f"{encoder} n", "…", style).plain, style, meaning.format(encoder))
            for encoder, style in zip(encoders, cycle(marks.dock_styles), strict=False)
        ]
        entries.append(("trained", TRAINED_STYLE, "read by the decoder, and predicted by the previous position"))
        entries.append((marks.untrained("read"), READ_STYLE, "read by the decoder, not predicted"))
        special_style = f"bold {SPECIAL_STYLE}"
    entries.append(("‹s›", special_style, "a special token"))
    width = max(len(sample) for sample, _, _ in entries)
    lines = [
        Text.assemble((sample, "" if plain else style), f"{' ' * (width - len(sample))}  {meaning}")
        for sample, style, meaning in entries
    ]
    return Text("\n").join(lines)
