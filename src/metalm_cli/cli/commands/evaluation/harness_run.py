"""``metalm evaluate --harness``: tasks of lm-evaluation-harness, with the results in a result file of metalm."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from metalm_cli.cli.options.evaluate import split_names
from metalm_cli.cli.options.groups import used_options
from metalm_cli.errors import MetalmError

APPLICABLE = ("--limit", "--shots", "--batch-size", "--out")
"""Options that apply to tasks of lm_eval, beside the model, ``--harness`` and ``--offline``."""


def check_harness_options(groups: Sequence[Any], versus: Sequence[str] | None) -> None:
    """Check that all options apply to tasks of lm_eval.

    Raises:
        MetalmError: An option does not apply.
    """
    used = [option for group in groups for option in used_options(group) if option not in APPLICABLE]
    used += ["--versus"] if versus else []
    if used:
        raise MetalmError(
            f"{', '.join(used)} {'does' if len(used) == 1 else 'do'} nothing with --harness",
            why="the tasks of lm_eval have their own prompts, rows and rules",
            remedy=f"omit {'it' if len(used) == 1 else 'them'}; {', '.join(APPLICABLE)} and --offline apply, and "
            "python -m metalm_cli.harness run --help lists lm_eval's own options",
        )


def run_harness(
    model: str,
    tasks: Sequence[str],
    *,
    limit: int | None,
    shots: tuple[int, ...] | None,
    batch_size: int | None,
    out: Path | None,
    offline: bool,
) -> None:
    """Run lm-evaluation-harness, then write and print its results.

    Args:
        model: The model.
        tasks: Names or files of lm_eval's tasks, each of them also several with commas.
        limit: Examples of each task; None: all.
        shots: A single number of demonstrations; None: the default of each task.
        batch_size: Batch size of generation; None: chosen for the device.
        out: The result file; None: a new one in the results of the model.
        offline: Open no connection.

    Raises:
        MetalmError: lm_eval is not installed, an option is invalid, or the results cannot be written.
    """
    from metalm_cli.cli.commands.evaluation.evaluation_display import print_note
    from metalm_cli.cli.commands.evaluation.results import print_record
    from metalm_cli.evaluation.results.harness_results import PROTOCOL, read_harness_results
    from metalm_cli.evaluation.results.result_paths import result_paths
    from metalm_cli.evaluation.results.results import Results
    from metalm_cli.harness import harness_command

    if shots is not None and len(shots) != 1:
        raise MetalmError(
            "--harness takes a single number of demonstrations", remedy="write --shots 0, or another number"
        )
    names = split_names(tasks)
    parts = [f"{shots[0]}-shot"] if shots else []
    parts += [f"limit-{limit}"] if limit is not None else []
    with tempfile.TemporaryDirectory(prefix="metalm-") as folder:
        command = harness_command(
            model,
            names,
            limit=limit,
            shots=None if shots is None else shots[0],
            batch_size=batch_size,
            out=folder,
            offline=offline,
        )
        (path,) = result_paths([model], out, PROTOCOL, [Path(name).stem for name in names], False, parts)
        code = subprocess.run(command).returncode
        if code:
            raise typer.Exit(128 - code if code < 0 else code)  # a negative code is a signal
        record = read_harness_results(Path(folder), model)
    Results(record).save(path)
    print_record(record)
    print_note(f"results  {path}")
