"""Display of a plan on the console."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from metalm_cli.common.table import counted
from metalm_cli.config.locate import display, shipped_root
from metalm_cli.training.planning.memory import ACTIVATION_FORMULA, human_bytes

if TYPE_CHECKING:
    from metalm_cli.config.resolution import ResolvedRecipe
    from metalm_cli.training.planning.plan import RunPlan

WARNING = "warning: "
"""Beginning of a note that is a warning."""


def plan_text(plan: RunPlan, resolved: ResolvedRecipe | None = None, *, all_values: bool = True) -> Group:
    """Render a plan as sections of a few lines, for any console.

    Args:
        plan: The plan.
        resolved: Its recipe, to display the origins of values.
        all_values: List every value with its origin; False: only non-defaults, as the lines of each recipe and each
            value of the command line.
    """
    notes = [*plan.notes, *(map(str, resolved.dropped) if resolved is not None else ())]
    warnings = [Text(note, "bold") for note in notes if is_warning(note)]
    notes = [note for note in notes if not is_warning(note)]
    sections: list[RenderableType] = [
        *warnings,
        _heading("model", f"{human_count(plan.total)} parameters, {human_count(plan.trained)} train"),
        _parts(plan),
        _rates(plan),
        *([_token_lines(plan)] if plan.special_tokens else []),
        _heading("data", _sampled(plan)),
        _sources(plan),
        _rows(plan),
        _heading("training", plan.objective),
        _training(plan),
        _heading("memory", f"about {human_bytes(plan.memory.total)} per process, {_sharded(plan)}"),
        _memory(plan),
    ]
    if resolved is not None and not all_values:
        sections += [_heading("recipe", f"{resolved.name}: non-default values"), _origins(resolved)]
    elif resolved is not None:
        sections += [_heading("recipe", f"{resolved.name}: all values with their origins"), _provenance(resolved)]
    if notes:
        sections.append(_heading("notes", ""))
        sections.append(_bullets(notes))
    return Group(*sections)


def is_warning(note: str) -> bool:
    """Whether a note is printed in bold at the top of the plan, and again when training starts."""
    return note.startswith(WARNING)


def human_count(number: float) -> str:
    """Format a number, with a unit letter from a million on.

    >>> human_count(812), human_count(12_345), human_count(1_594_112), human_count(2.5e9)
    ('812', '12,345', '1.59M', '2.50B')
    """
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.2f}{letter}"
    return f"{number:,.0f}"


def _heading(name: str, text: str) -> Text:
    return Text.assemble((f"{name:<9}", "bold cyan"), text)


def _lines(rows: Iterable[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2), collapse_padding=True)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(f"  {name}", Text(value))
    return table


def _bullets(texts: Iterable[str]) -> Table:
    """List of texts whose further lines are indented as the first one."""
    table = Table.grid(padding=(0, 1), collapse_padding=True)
    table.add_column(style="yellow", no_wrap=True)
    table.add_column(overflow="fold")
    for text in texts:
        table.add_row("  -", Text(text))
    return table


def _table(*columns: tuple[str, bool]) -> Table:
    """Make a table from column titles and whether columns hold numbers. Long texts are truncated."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False)
    for index, (title, is_number) in enumerate(columns):
        title = f"  {title}" if index == 0 else title
        table.add_column(title, justify="right" if is_number else "left", no_wrap=is_number, overflow="ellipsis")
    return table


def _parts(plan: RunPlan) -> Table:
    table = _table(
        ("part", False), ("class", False), ("total", True), ("trained", True), ("train", False), ("rate", True)
    )
    for part in plan.parts:
        rate = f"{part.learning_rate:g}" if part.trained else "-"
        table.add_row(
            f"  {part.name}", part.kind, human_count(part.total), human_count(part.trained), part.train, rate,
            style="" if part.trained else "dim",
        )  # fmt: skip
    if sum(part.total for part in plan.parts) != plan.total:
        table.add_row("  total", "shared counted once", human_count(plan.total), human_count(plan.trained), "", "")
    return table


def _rates(plan: RunPlan) -> Table:
    """Where the learning rate of each trained part comes from."""
    origins: dict[str, list[str]] = {}
    for part in plan.parts:
        if part.trained:
            origins.setdefault(part.rate_origin, []).append(part.name)
    lines = [f"{', '.join(names)}: {origin}" for origin, names in origins.items()]
    return _lines([("rates" if index == 0 else "", line) for index, line in enumerate(lines)])


def _token_lines(plan: RunPlan) -> Table:
    tokens = plan.special_tokens
    assert tokens is not None
    explanations = {"auto": "if the tokenizer adds one, or a session begins with a trained token"}
    return _lines(
        [
            (
                "start",
                f"{tokens.start_token!r} {tokens.start}{': ' + explanations['auto'] if tokens.start == 'auto' else ''}",
            ),
            ("document", f"{tokens.document_token!r} ends a document; paragraph {tokens.paragraph}"),
            ("delimiter", f"{tokens.target_delimiter!r} between input and answer; vocabulary {tokens.vocabulary:,}"),
        ]
    )


def _sampled(plan: RunPlan) -> str:
    stats = plan.sample_stats
    documents = counted(stats.sampled, plan.unit)
    if plan.packing:
        return f"from a sample of {documents}"
    return f"from a sample of {documents} in {counted(stats.rows, 'row')}"


def _sources(plan: RunPlan) -> Table:
    name_title, drawn_title = ("source", "documents") if plan.unit == "document" else ("task", "drawn")
    table = _table(
        (name_title, False), ("kind", False), ("rows", True), ("share", True), (drawn_title, True), ("epochs", True)
    )
    for source in plan.sources:
        info = source.info
        table.add_row(
            f"  {info.name}",
            f"{info.kind}, stream" if info.streamed else info.kind,
            "unknown" if info.usable is None else f"{info.usable:,}",
            f"{info.share:.1%}",
            human_count(source.documents),
            "unknown" if source.epochs is None else f"{source.epochs:.2f}",
        )
    return table


def _rows(plan: RunPlan) -> Table:
    stats = plan.sample_stats
    lines = [(f"per {plan.unit}", _unit(plan))]
    row_description = (
        f"{plan.batch_shape.length:,} positions, {stats.fill:.1%} filled" if not plan.packing else plan.packing
    )
    lines.append(("per row", row_description))
    ratio = stats.positions_per_docked_token
    if ratio is not None and not plan.packing:
        lines.append(("docked", f"{stats.docked_fraction:.1%} of the tokens, {ratio:.2f} positions per token"))
    lines.append(("validation", _validation(plan)))
    return _lines(lines)


def _unit(plan: RunPlan) -> str:
    stats = plan.sample_stats
    if plan.unit == "document":
        return f"{stats.tokens_per_document:,.0f} tokens, {stats.bytes_per_token:.2f} bytes each"
    positions, docked, trained = (
        stats.per_row(name) for name in ("source_tokens", "docked_positions", "trained_tokens")
    )
    return f"{positions:,.0f} positions, {docked:,.0f} of them docked, {trained:,.1f} trained"


def _validation(plan: RunPlan) -> str:
    validation = plan.validation
    if not validation.documents:
        return "none"
    origin = f"of {', '.join(validation.sources)}" if validation.sources else "held out"
    if plan.unit == "example":
        examples = counted(validation.documents, "example")
        loss = "of all pairs as one batch" if validation.objective == "contrastive" else "is the mean over clusters"
        return f"{examples}, up to {validation.windows:,} per task; loss {loss}"
    if validation.windows is None:
        return f"up to {validation.documents:,} documents {origin}"
    return f"{counted(validation.documents, 'document')} {origin}, in {counted(validation.windows, 'window')}"


def _training(plan: RunPlan) -> Table:
    shape = plan.batch_shape
    source_tokens, trained_tokens = plan.per_step("source_tokens"), plan.per_step("trained_tokens")
    steps = f"{shape.steps:,}" + (
        " (an estimate, from train.epochs and the sample)" if shape.steps_are_estimated else ""
    )
    processes = f"{shape.processes} process{'es' if shape.processes != 1 else ''}"
    passes = f"{shape.micro_batches} pass{'es' if shape.micro_batches != 1 else ''}"
    rows = f"{shape.batch_size:,} rows: {processes} x {passes} x {shape.micro_batch_size} rows"
    if plan.unit == "example":
        pass_description = "rows of similar length per pass" if plan.device == "cpu" else "all rows in one pass"
        rows_per_pass = f"{shape.micro_batch_size} rows per pass" if shape.micro_batches else pass_description
        rows = f"{shape.batch_size:,} examples: {processes}, {rows_per_pass}"
    return _lines(
        [
            ("steps", steps),
            ("per step", f"{rows}, {plan.device}, {plan.precision}"),
            (
                "",
                f"{shape.positions:,} positions, about {source_tokens:,.0f} source tokens, "
                f"{trained_tokens:,.0f} trained",
            ),
            (
                "total",
                f"{human_count(shape.positions * shape.steps)} positions, "
                f"about {human_count(source_tokens * shape.steps)} source tokens, "
                f"{human_count(trained_tokens * shape.steps)} trained",
            ),
        ]
    )


def _sharded(plan: RunPlan) -> str:
    shards = plan.memory.shards
    return f"all but activations sharded over {shards}" if shards > 1 else "not sharded"


def _memory(plan: RunPlan) -> Table:
    memory = plan.memory
    exact = f"weights {human_bytes(memory.weights)}, gradients {human_bytes(memory.gradients)}"
    return _lines(
        [
            ("exact", f"{exact}, optimizer {human_bytes(memory.optimizer)}"),
            ("estimate", f"activations {human_bytes(memory.activations)}: {ACTIVATION_FORMULA}"),
        ]
    )


def _origins(resolved: ResolvedRecipe) -> Table:
    """Table of the lines of each recipe file that set a value, by section, then the values of the command line."""
    root = display(shipped_root("recipes")) + "/"
    files: dict[str, dict[str, list[int]]] = {}
    command_line: list[tuple[str, str]] = []
    for line, key in resolved.lines():
        origin = resolved.provenance[key] if key else None
        if origin is None or origin.kind == "default":
            continue
        file, _, number = str(origin).removeprefix(root).rpartition(":")
        if origin.kind == "recipe":
            files.setdefault(file, {}).setdefault(key.partition(".")[0], []).append(int(number))
        else:
            command_line.append((str(origin), f"{key}: {line.split(': ', 1)[-1]}"))
    return _lines(
        [
            (file, ", ".join(f"{name} {_span(lines)}" for name, lines in sections.items()))
            for file, sections in files.items()
        ]
        + command_line
    )


def _span(lines: list[int]) -> str:
    return f"{min(lines)}-{max(lines)}" if min(lines) < max(lines) else str(lines[0])


def _provenance(resolved: ResolvedRecipe) -> RenderableType:
    """Table of the set values by section, each with its origin, then the defaults in compact form."""
    root = display(shipped_root("recipes")) + "/"
    table = Table.grid(padding=(0, 2), collapse_padding=True)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold", style="dim")
    defaults: dict[str, list[str]] = {}
    last_section = ""
    for line, key in resolved.lines():
        if not key:
            continue
        (section, _, name), value = key.rpartition("."), line.split(": ", 1)[-1]
        origin = resolved.provenance[key]
        if origin.kind == "default":
            if value != "null" and key != "description":
                defaults.setdefault(section, []).append(f"{name} {value}")
            continue
        if section and section != last_section:
            table.add_row(Text(f"  {section}", "cyan"), "")
        last_section = section
        origin_text = Text(str(origin).removeprefix(root), "" if origin.kind == "recipe" else "bold green")
        table.add_row(Text.assemble("    " if section else "  ", f"{name}: ", (value, "bold")), origin_text)
    default_lines = [Text(f"{section}: {', '.join(values)}", "dim") for section, values in defaults.items()]
    return Group(
        table, Text("  defaults (null ones left out)", "cyan"), *[Padding(line, (0, 0, 0, 4)) for line in default_lines]
    )
