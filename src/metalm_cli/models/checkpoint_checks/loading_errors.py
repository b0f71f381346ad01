"""Errors of loading: configs, weights and tokenizers can be wrong in many ways, with as many kinds of exceptions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from metalm_cli.errors import MetalmError


@contextmanager
def loading_errors(what: str, where: str, remedy: str) -> Iterator[None]:
    """Context manager that turns every exception into a :class:`~metalm_cli.errors.MetalmError`.

    Args:
        what: Statement of what is wrong.
        where: The folder, or the key of the recipe.
        remedy: What to change.
    """
    try:
        yield
    except MetalmError:
        raise
    except Exception as error:
        raise MetalmError(what, where=where, why=describe_exception(error), remedy=remedy) from error


def model_errors(folder: str | Path) -> AbstractContextManager[None]:
    """Return a context manager that turns every exception into an error of a model folder."""
    remedy = "name a run folder with a finished model/, or a folder of a causal or encoder–decoder language model"
    return loading_errors("the model cannot be loaded", str(folder), remedy)


def describe_exception(error: Exception) -> str:
    """Return the first line of an error message, with the type of the error if the message alone says too little."""
    line = first_line(error)
    return line if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {line}"


def first_line(error: Exception) -> str:
    """Return the first line of an error message, at most 300 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
