"""How a plan looks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from metalm_cli.config.locate import display, shipped_root
from metalm_cli.training.planning.memory import FORMULA, human_bytes

if TYPE_CHECKING:
    from metalm_cli.config.resolution import Resolved
    from metalm_cli.training.planning.plan import RunPlan


def plan_text(plan: RunPlan, resolved: Resolved | None = None, *, every: bool = True) -> Group:
    """A plan for people: sections of a few lines, on any console.

    Args:
        plan: The plan.
        resolved: Its recipe, to say where values came from.
        every: List every value with its place; else what is not a default: the lines of each recipe, and each value
            of the command line.
    """
    sections: list[RenderableType] = [
        _heading("model", f"{count(plan.total)} parameters, {count(plan.trained)} train"),
        _parts(plan),
        *([_token_lines(plan)] if plan.tokens else []),
        _heading("data", _sampled(plan)),
        _sources(plan),
        _rows(plan),
        _heading("training", plan.objective),
        _training(plan),
        _heading("memory", f"about {human_bytes(plan.memory.total)} a process, {_sharded(plan)}"),
        _memory(plan),
    ]
    if resolved is not None and not every:
        sections += [_heading("recipe", f"{resolved.name}: what is not a default"), _origins(resolved)]
    elif resolved is not None:
        sections += [_heading("recipe", f"{resolved.name}: every value, and where it came from"), _provenance(resolved)]
    notes = [*plan.notes, *(map(str, resolved.dropped) if resolved is not None else ())]
    if notes:
        sections.append(_heading("notes", ""))
        sections += [Text.assemble(("  - ", "yellow"), note) for note in notes]
    return Group(*sections)


def count(number: float) -> str:
    """A number that people read.

    >>> count(812), count(12_345), count(1_594_112), count(2.5e9)
    ('812', '12,345', '1.59M', '2.50B')
    """
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.2f}{letter}"
    return f"{number:,.0f}"


def _heading(name: str, said: str) -> Text:
    return Text.assemble((f"{name:<9}", "bold cyan"), said)


def _lines(rows: Iterable[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2), collapse_padding=True)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(f"  {name}", Text(value))
    return table


def _table(*columns: tuple[str, bool]) -> Table:
    """Columns by title, and whether they hold numbers. What is too long for a narrow terminal is cut."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False)
    for at, (title, number) in enumerate(columns):
        title = f"  {title}" if at == 0 else title
        table.add_column(title, justify="right" if number else "left", no_wrap=number, overflow="ellipsis")
    return table


def _parts(plan: RunPlan) -> Table:
    table = _table(
        ("part", False), ("class", False), ("total", True), ("trained", True), ("train", False), ("rate", True)
    )
    for part in plan.parts:
        rate = f"{part.learning_rate:g}" if part.trained else "-"
        table.add_row(
            f"  {part.name}", part.kind, count(part.total), count(part.trained), part.train, rate,
            style="" if part.trained else "dim",
        )  # fmt: skip
    if sum(part.total for part in plan.parts) != plan.total:
        table.add_row("  in all", "shared counted once", count(plan.total), count(plan.trained), "", "")
    return table


def _token_lines(plan: RunPlan) -> Table:
    tokens = plan.tokens
    assert tokens is not None
    when = {"auto": "where the tokenizer adds one, or a session begins with a trained token"}
    return _lines(
        [
            ("start", f"{tokens.start_token!r} {tokens.start}{': ' + when['auto'] if tokens.start == 'auto' else ''}"),
            ("document", f"{tokens.document_token!r} ends a document; paragraph {tokens.paragraph}"),
            ("delimiter", f"{tokens.target_delimiter!r} between input and answer; vocabulary {tokens.vocabulary:,}"),
        ]
    )


def _sampled(plan: RunPlan) -> str:
    found = plan.figures
    documents = f"{found.sampled:,} {plan.unit}{'s' if found.sampled != 1 else ''}"
    if plan.layout:
        return f"from a sample of {documents}"
    return f"from a sample of {documents} in {found.rows:,} row{'s' if found.rows != 1 else ''}"


def _sources(plan: RunPlan) -> Table:
    name, drawn = ("source", "documents") if plan.unit == "document" else ("task", "drawn")
    table = _table((name, False), ("kind", False), ("rows", True), ("share", True), (drawn, True), ("epochs", True))
    for source in plan.sources:
        info = source.info
        table.add_row(
            f"  {info.name}",
            f"{info.kind}, stream" if info.streamed else info.kind,
            "unknown" if info.rows is None else f"{info.rows:,}",
            f"{info.share:.1%}",
            count(source.documents),
            "unknown" if source.epochs is None else f"{source.epochs:.2f}",
        )
    return table


def _rows(plan: RunPlan) -> Table:
    found = plan.figures
    lines = [(f"a{'n' if plan.unit == 'example' else ''} {plan.unit}", _unit(plan))]
    filled = f"{plan.portions.length:,} positions, {found.fill:.1%} filled" if not plan.layout else plan.layout
    lines.append(("a row", filled))
    ratio = found.positions_per_docked_token
    if ratio is not None and not plan.layout:
        lines.append(("docked", f"{found.docked_fraction:.1%} of the tokens, {ratio:.2f} positions for each"))
    lines.append(("validation", _validation(plan)))
    return _lines(lines)


def _unit(plan: RunPlan) -> str:
    found = plan.figures
    if plan.unit == "document":
        return f"{found.tokens_per_document:,.0f} tokens, {found.bytes_per_token:.2f} bytes each"
    positions, docked, trained = (
        found.per_row(name) for name in ("source_tokens", "docked_positions", "trained_tokens")
    )
    return f"{positions:,.0f} positions, {docked:,.0f} of them docked, {trained:,.1f} trained"


def _validation(plan: RunPlan) -> str:
    found = plan.validated
    if not found.documents:
        return "none"
    where = f"of {', '.join(found.sources)}" if found.sources else "held out"
    if plan.unit == "example":
        return f"{found.documents:,} examples, up to {found.windows:,} a task; the mean over clusters decides"
    if found.windows is None:
        return f"up to {found.documents:,} documents {where}"
    return f"{found.documents:,} documents {where}, in {found.windows:,} windows"


def _training(plan: RunPlan) -> Table:
    cut = plan.portions
    source, trained = plan.a_step("source_tokens"), plan.a_step("trained_tokens")
    steps = f"{cut.steps:,}" + (" (an estimate, from train.epochs and the sample)" if cut.estimated else "")
    processes = f"{cut.processes} process{'es' if cut.processes != 1 else ''}"
    passes = f"{cut.micro_batches} pass{'es' if cut.micro_batches != 1 else ''}"
    rows = f"{cut.batch_size:,} rows: {processes} x {passes} x {cut.micro_batch_size} rows"
    if plan.unit == "example":
        whole = "rows of like length in a pass" if plan.device == "cpu" else "all its rows in one pass"
        each = f"{cut.micro_batch_size} rows a pass" if cut.micro_batches else whole
        rows = f"{cut.batch_size:,} examples: {processes}, {each}"
    return _lines(
        [
            ("steps", steps),
            ("a step", f"{rows}, {plan.device}, {plan.precision}"),
            ("", f"{cut.positions:,} positions, about {source:,.0f} source tokens, {trained:,.0f} trained"),
            (
                "in all",
                f"{count(cut.positions * cut.steps)} positions, about {count(source * cut.steps)} source tokens, "
                f"{count(trained * cut.steps)} trained",
            ),
        ]
    )


def _sharded(plan: RunPlan) -> str:
    shards = plan.memory.shards
    return f"all but activations sharded over {shards}" if shards > 1 else "nothing sharded"


def _memory(plan: RunPlan) -> Table:
    memory = plan.memory
    exact = f"weights {human_bytes(memory.weights)}, gradients {human_bytes(memory.gradients)}"
    return _lines(
        [
            ("exact", f"{exact}, optimizer {human_bytes(memory.optimizer)}"),
            ("estimate", f"activations {human_bytes(memory.activations)}: {FORMULA}"),
        ]
    )


def _origins(resolved: Resolved) -> Table:
    """The lines of each recipe file that hold a value, by section; then the values of the command line."""
    root = display(shipped_root("recipes")) + "/"
    files: dict[str, dict[str, list[int]]] = {}
    given: list[tuple[str, str]] = []
    for line, key in resolved.lines():
        came = resolved.provenance[key] if key else None
        if came is None or came.kind == "default":
            continue
        file, _, number = str(came).removeprefix(root).rpartition(":")
        if came.kind == "recipe":
            files.setdefault(file, {}).setdefault(key.partition(".")[0], []).append(int(number))
        else:
            given.append((str(came), f"{key}: {line.split(': ', 1)[-1]}"))
    return _lines(
        [(file, ", ".join(f"{name} {_span(at)}" for name, at in sections.items())) for file, sections in files.items()]
        + given
    )


def _span(lines: list[int]) -> str:
    return f"{min(lines)}-{max(lines)}" if min(lines) < max(lines) else str(lines[0])


def _provenance(resolved: Resolved) -> RenderableType:
    """Values that were set, by section, each with its place; then the defaults, close together."""
    root = display(shipped_root("recipes")) + "/"
    table = Table.grid(padding=(0, 2), collapse_padding=True)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold", style="dim")
    defaults: dict[str, list[str]] = {}
    last = ""
    for line, key in resolved.lines():
        if not key:
            continue
        (section, _, name), value = key.rpartition("."), line.split(": ", 1)[-1]
        came = resolved.provenance[key]
        if came.kind == "default":
            if value != "null":
                defaults.setdefault(section, []).append(f"{name} {value}")
            continue
        if section and section != last:
            table.add_row(Text(f"  {section}", "cyan"), "")
        last = section
        where = Text(str(came).removeprefix(root), "" if came.kind == "recipe" else "bold green")
        table.add_row(Text.assemble("    " if section else "  ", f"{name}: ", (value, "bold")), where)
    rest = [Text(f"  {section}: {', '.join(values)}", "dim") for section, values in defaults.items()]
    return Group(table, Text("  defaults (null ones left out)", "cyan"), *[Padding(one, (0, 0, 0, 2)) for one in rest])
