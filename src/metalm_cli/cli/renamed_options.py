"""Options that version 0.1 named differently: using an old name is an error that gives the new one."""

from __future__ import annotations

from collections.abc import Sequence

from metalm_cli.errors import MetalmError

RENAMED = {
    "--extras": "--all-cards",
    "--also-fit": "--match-input-lengths-of",
    "--samples": "--sampled-answers",
    "--layout": "--demonstration-layout",
    "--route": "--input-route",
    "--options": "--show-options",
    "--no-options": "--no-show-options",
    "--rationale": "--rationales",
    "--no-rationale": "--no-rationales",
}
"""Present name of each option by its name in 0.1. No command has an option with one of the old names."""


def check_options(arguments: Sequence[str]) -> None:
    """Reject options by their old names.

    Args:
        arguments: Arguments after ``metalm``; those after ``--`` are not options.

    Raises:
        MetalmError: An argument is an old name.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    for argument in arguments[:end]:
        name = argument.partition("=")[0]
        if name in RENAMED:
            raise MetalmError(f"option {name} is now {RENAMED[name]}", remedy=f"write {RENAMED[name]}")
