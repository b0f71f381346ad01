"""Rows as people read them: what the model sees at every position, what is docked, and what is predicted."""

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

CONTEXT = 4
"""Tokens before a token that are decoded with it, so that its spaces and split characters come out right."""
DOCK_STYLES = ("white on blue", "black on yellow", "white on magenta", "black on cyan")
"""Backgrounds of encoders, in the order of the model's."""
TRAINED, READ, SPECIAL, MASKED = "green", "dim", "magenta", "white on red"


@dataclass(frozen=True)
class Position:
    """One position of a row.

    Args:
        at: Place in the row.
        segment: Its segment.
        position: Place in its session.
        text: What is read there; of a dock, the encoder's token.
        special: A special token is read.
        trained: The token read here is predicted and counted (of a masked row: predicted here).
        dock: Encoder, number of the dock in the row, place in it; None at the model's own tokens.
        predicts: What its output predicts, if anything is counted.
    """

    at: int
    segment: int
    position: int
    text: str
    special: bool = False
    trained: bool = False
    dock: tuple[str, int, int] | None = None
    predicts: tuple[str, ...] = ()


def token_texts(tokenizer: Any, ids: Iterable[int]) -> list[str]:
    """The text that each token adds to those before it; a special token's own name.

    A character whose bytes are spread over tokens stands at the last of them.
    """
    special = set(tokenizer.all_special_ids)
    found: list[str] = []
    recent: list[int] = []
    for token in map(int, ids):
        if token in special:
            found.append(str(tokenizer.convert_ids_to_tokens(token)))
            recent = []
            continue
        before = _decoded(tokenizer, recent).rstrip("�")
        recent = [*recent, token]
        after = _decoded(tokenizer, recent)
        if not after.startswith(before):  # a decoder that tidies up what stands before
            before, after = "", _decoded(tokenizer, [token])
        # Bytes of an unfinished character are decoded as U+FFFD, and are not shown until it is finished.
        found.append("" if after.endswith("�") else after[len(before) :])
        if not after.endswith("�"):
            recent = recent[-CONTEXT:]
    return found


def _decoded(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False) if ids else ""


def positions_of(
    row: Row, tokenizer: Any, processors: Mapping[str, Processor], *, masked: bool = False
) -> list[Position]:
    """Every position of a row.

    Args:
        row: The row.
        tokenizer: The tokenizer of its own tokens.
        processors: Of the encoders that it docks into.
        masked: A row of an encoder alone: what is predicted at a position is the token that stood there.
    """
    special = set(tokenizer.all_special_ids)
    docked = {
        at + offset: (number, offset) for number, (at, dock) in enumerate(row.docks) for offset in range(dock.positions)
    }
    read = _unmasked(row) if masked else row.ids
    texts = _own_texts(row, read, tokenizer, docked.keys())
    insides = [_inside(dock, processors[dock.encoder]) for _, dock in row.docks]
    found = []
    for at in range(len(row)):
        one = Position(at, int(row.segments[at]), int(row.positions[at]), texts[at])
        if at in docked:
            number, offset = docked[at]
            one = replace(one, text=insides[number][offset], dock=(row.docks[number][1].encoder, number, offset))
        else:
            one = replace(one, special=int(row.ids[at]) in special)
        found.append(one)
    return _with_originals(row, tokenizer, found) if masked else _with_targets(row, found)


def _unmasked(row: Row) -> np.ndarray:
    """The tokens that stood in a masked row."""
    ids = row.ids.copy()
    ids[row.predict_at] = row.targets
    return ids


def _own_texts(row: Row, ids: np.ndarray, tokenizer: Any, docked: Any) -> list[str]:
    """Texts of the model's own tokens, each segment decoded by itself; empty at docks."""
    texts = [""] * len(row)
    for segment in range(len(row.parents)):
        own = [at for at in np.flatnonzero(row.segments == segment).tolist() if at not in docked]
        for at, text in zip(own, token_texts(tokenizer, ids[own]), strict=True):
            texts[at] = text
    return texts


def _inside(dock: DockInput, processor: Processor) -> list[str]:
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None:
        return [""] * dock.positions
    texts = token_texts(tokenizer, dock.arrays["input_ids"])
    return [texts[at] for at in dock.docked]


def _with_targets(row: Row, found: list[Position]) -> list[Position]:
    for before, owner in zip(row.predict_at.tolist(), row.owners.tolist(), strict=True):
        # The first token of a branch is predicted where its parent ends.
        inside = row.segments[before] == owner
        at = before + 1 if inside else int(np.flatnonzero(row.segments == owner)[0])
        found[at] = replace(found[at], trained=True)
        found[before] = replace(found[before], predicts=(*found[before].predicts, found[at].text))
    return found


def _with_originals(row: Row, tokenizer: Any, found: list[Position]) -> list[Position]:
    for at in row.predict_at.tolist():
        (read,) = token_texts(tokenizer, [row.ids[at]])
        found[at] = replace(found[at], text=read, trained=True, predicts=(found[at].text,))
    return found


class RowView:
    """A row as text, or as a table of its positions.

    Args:
        row: The row.
        tokenizer: The tokenizer of its own tokens (the decoder's, or that of an encoder alone).
        processors: Encoders' processors, by name.
        masked: A row of an encoder alone.
        plain: Mark kinds by brackets instead of colours.
        where: Names the document at a number of the index plan.
    """

    def __init__(
        self,
        row: Row,
        tokenizer: Any,
        processors: Mapping[str, Processor],
        *,
        masked: bool = False,
        plain: bool = False,
        where: Callable[[int], str] | None = None,
    ) -> None:
        self.row, self.masked, self.plain, self.where = row, masked, plain, where
        self.encoders = list(processors)
        self.positions = positions_of(row, tokenizer, {} if masked else processors, masked=masked)

    def style(self, encoder: str) -> str:
        return DOCK_STYLES[self.encoders.index(encoder) % len(DOCK_STYLES)]

    # -- text ---------------------------------------------------------------------------------------------------------

    def text(self) -> Group:
        """The row's sessions, one under the other, each with a line that says where it stands."""
        from rich.console import Group

        shown: list[Any] = []
        for segment, members in groupby(self.positions, key=lambda one: one.segment):
            inside = list(members)
            shown += [self._boundary(segment, inside), _Indented(self._session(inside)), ""]
        return Group(*shown[:-1])

    def summary(self) -> str:
        """What the row holds, in one line."""
        row, sessions = self.row, len(self.row.parents)
        said = [f"{len(row):,} positions", f"{sessions} session{'s' if sessions != 1 else ''}"]
        said.append(f"{len(row.targets):,} {'masked' if self.masked else 'trained'}")
        if row.docks:
            said.append(f"{len(row.docks)} docked in {sum(dock.positions for _, dock in row.docks):,} positions")
        for key, what in (
            ("cut_spans", "cut by the row's end"),
            ("empty_spans", "empty"),
            ("too_long_spans", "too long"),
        ):
            if row.counts.get(key):
                said.append(f"{row.counts[key]} span{'s' if row.counts[key] != 1 else ''} {what}")
        return " · ".join(said)

    def _boundary(self, segment: int, inside: list[Position]) -> Text:
        from rich.text import Text

        said = f"── session {segment + 1} · positions {inside[0].at}-{inside[-1].at}"
        parent = int(self.row.parents[segment])
        if parent >= 0:
            said += f" · goes on from session {parent + 1}"
        numbers = self.row.numbers
        # Where documents are isolated each is a session; else all of them are one.
        mine = numbers if len(self.row.parents) == 1 else numbers[segment : segment + 1]
        if self.where is not None and len(mine) and len(numbers) >= len(self.row.parents):
            said += " · " + "; ".join(map(self.where, mine))
        return Text(said, style="dim" if not self.plain else "")

    def _session(self, inside: list[Position]) -> Text:
        from rich.text import Text

        text = Text()
        for kind, members in groupby(inside, key=_kind):
            run = list(members)
            if isinstance(kind, tuple):
                text.append_text(self._docked(run))
            elif self.masked:
                for one in run:
                    text.append_text(self._maybe_masked(one))
            else:
                text.append_text(self._causal(run))
        return text

    def _docked(self, run: list[Position]) -> Text:
        from rich.text import Text

        assert run[0].dock is not None
        encoder, number, _ = run[0].dock
        content = escape_controls("".join(one.text for one in run)).replace("\n", " ")
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
        for special, members in groupby(run, key=lambda one: one.special):
            content = "".join(_special(one.text) if special else escape_controls(one.text) for one in members)
            if self.plain and not trained:
                content = f"{{{content}}}"
            text.append(content, ("bold " if special else "") + (TRAINED if trained else SPECIAL if special else READ))
        return text

    def _maybe_masked(self, one: Position) -> Text:
        from rich.text import Text

        content = _special(one.text) if one.special else escape_controls(one.text)
        if not one.trained:
            return Text(content, "magenta" if one.special else "")
        original = escape_controls(one.predicts[0]).replace("\n", "")
        space = " " * original.startswith(" ")
        original = original.strip(" ") or "␣"
        content = content.strip(" ") or "␣"
        if self.plain:
            return Text(f"{space}({content}={original})")
        return Text.assemble(space, (content, MASKED), (f"={original}", f"bold {TRAINED}"))

    # -- positions ----------------------------------------------------------------------------------------------------

    def table(self, *, narrow: bool = False) -> Table:
        """A line for every position: what is read there, and what its output predicts.

        Args:
            narrow: Leave out the place within the session.
        """
        from rich.table import Table

        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
        table.add_column("row", justify="right", no_wrap=True)
        if not narrow:
            table.add_column("session", justify="right", no_wrap=True)
        table.add_column("reads", overflow="fold")
        table.add_column("predicts", overflow="fold")
        last = 0
        for one in self.positions:
            if one.segment != last:
                last = one.segment
                table.add_row("──", *([] if narrow else ["──"]), f"session {last + 1}", "", style="dim")
            place = [] if narrow else [f"{one.segment + 1}:{one.position}"]
            table.add_row(str(one.at), *place, self._reads(one), self._predicts(one))
        return table

    def _reads(self, one: Position) -> Text:
        from rich.text import Text

        if one.dock is not None:
            encoder, number, offset = one.dock
            of = f"{encoder} {offset + 1}/{self.row.docks[number][1].positions}"
            return Text(f"{of} {one.text!r}" if one.text else of, "" if self.plain else self.style(encoder))
        said = _special(one.text) if one.special else repr(one.text)
        if self.masked:
            return Text(said, MASKED if one.trained else SPECIAL if one.special else "")
        return Text(said, TRAINED if one.trained else SPECIAL if one.special else READ)

    def _predicts(self, one: Position) -> Text:
        from rich.text import Text

        return Text(", ".join(map(repr, one.predicts)), TRAINED) if one.predicts else Text("-", READ)


class _Indented:
    """Text two columns in, without spaces at the ends of lines."""

    def __init__(self, text: Text) -> None:
        self.text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        from rich.text import Text

        for line in self.text.wrap(console, max(1, options.max_width - 2)):
            line.rstrip()
            yield Text("  ").append_text(line)


def _kind(one: Position) -> Any:
    return one.dock[:2] if one.dock is not None else one.trained


def _special(name: str) -> str:
    """A special token, told from text that spells it."""
    return f"‹{name}›"


def escape_controls(text: str) -> str:
    """Text with its line ends visible, and without characters that steer a terminal."""
    return "".join(_shown(char) for char in text)


def _shown(char: str) -> str:
    if char == "\n":
        return "↵\n"
    if char == "\t":
        return "⇥ "
    return char if char.isprintable() else f"\\x{ord(char):02x}"


def legend(encoders: Sequence[str], *, objective: str, plain: bool = False) -> Text:
    """What the marks mean.

    Args:
        encoders: Names of the encoders that are docked.
        objective: Name of the objective.
        plain: As in :class:`RowView`.
    """
    from rich.text import Text

    entries = list(_masked_legend(objective, plain) if objective in ("mlm", "rtd") else _legend(encoders, plain))
    text = Text()
    width = max(len(sample) for sample, _, _ in entries)
    for at, (sample, style, meaning) in enumerate(entries):
        text.append("\n" if at else "")
        text.append(sample, style if not plain else "")
        text.append(f"{' ' * (width - len(sample))}  {meaning}")
    return text


Entry = tuple[str, str, str]


def _legend(encoders: Sequence[str], plain: bool) -> Iterator[Entry]:
    for at, encoder in enumerate(encoders):
        sample = f"[{encoder} n: …]" if plain else f" {encoder} n  … "
        yield sample, DOCK_STYLES[at % len(DOCK_STYLES)], f"docked: read by the encoder {encoder!r}, in n positions"
    yield "trained", TRAINED, "read by the decoder, and predicted by the position before"
    yield "{read}" if plain else "read", READ, "read by the decoder, not predicted"
    yield "‹s›", f"bold {SPECIAL}", "a special token"


def _masked_legend(objective: str, plain: bool) -> Iterator[Entry]:
    sample = "(read=original)" if plain else "read=original"
    meaning = "a masked token, and the one to predict"
    if objective == "rtd":
        meaning = "a masked token; the generator fills it, the encoder says of every token whether it is the original"
    yield sample, MASKED, meaning
    yield "‹s›", SPECIAL, "a special token"
