"""lm-evaluation-harness: the model ``metalm`` for its command line, scored with shared prefixes.

``python -m metalm_cli.harness`` takes lm_eval's own arguments. lm_eval finds no plug-ins by itself, so the model is
registered here, in the same process, before its command line takes over.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from metalm_cli.errors import Exit, MetalmError

MODEL_NAME = "metalm"
"""Name of the model in lm_eval's registry."""
OFFLINE_FLAG = "--offline"
"""The one argument that is ours: open no connection."""
MIN_LM_EVAL_VERSION = "0.4.13"
"""Oldest lm_eval that is known to work."""


def require_lm_eval() -> None:
    """See that lm_eval is there.

    Raises:
        MetalmError: It is not.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise _lm_eval_error("lm_eval is not installed")


def _lm_eval_error(problem: str) -> MetalmError:
    return MetalmError(
        problem,
        why="the harness's tasks need lm-evaluation-harness, which is an optional part of this program",
        remedy=f"python -m pip install 'lm-eval>={MIN_LM_EVAL_VERSION}', or install metalm[harness]",
    )


def register() -> None:
    """Make ``metalm`` known to lm_eval in this process.

    Raises:
        MetalmError: lm_eval is not there, or too old.
    """
    require_lm_eval()
    try:
        import lm_eval.models  # noqa: F401  (a registry that is not empty is not filled)
        from lm_eval.api.registry import model_registry
    except ImportError as error:
        raise _lm_eval_error(f"this lm_eval is older than {MIN_LM_EVAL_VERSION}: {error}") from error
    if MODEL_NAME not in model_registry:
        model_registry.register(MODEL_NAME, target="metalm_cli.harness.model:HarnessModel")


def harness_command(
    model: str | Path,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    shots: int | None = None,
    out: str | Path | None = None,
    offline: bool = False,
    dock: str | None = None,
) -> list[str]:
    """The command that evaluates a model on the harness's tasks, for ``subprocess.run``.

    Args:
        model: A run folder, a model folder or a hub id.
        tasks: Names of lm_eval's tasks or groups, or YAML files of tasks.
        limit: Examples of each task; None: all.
        shots: Demonstrations; None: as each task has it.
        out: Folder for lm_eval's result files.
        offline: Open no connection.
        dock: Name of the encoder that is to read the contexts; None: the decoder reads them.

    Raises:
        MetalmError: lm_eval is not there, no task is named, or a name cannot be handed over.
    """
    require_lm_eval()
    if not tasks:
        raise MetalmError("no task of lm_eval is named", remedy="name one, as --harness hellaswag")
    for name in (str(model), *tasks):
        if set(name) & set(",'\"[](){}"):
            raise MetalmError(
                f"lm_eval would not read the name {name!r} as it is",
                why="its arguments are cut at commas and read by quotes and brackets",
                remedy="rename it, or make a link with a plain name",
            )
    model_args = f"pretrained={model}" + (f",dock={dock}" if dock else "")
    command = [sys.executable, "-m", __name__, *([OFFLINE_FLAG] if offline else []), "run"]
    command += ["--model", MODEL_NAME, "--model_args", model_args, "--tasks", *tasks, "--batch_size", "auto"]
    for flag, value in (("--limit", limit), ("--num_fewshot", shots), ("--output_path", out)):
        command += [] if value is None else [flag, str(value)]
    return command


def main(arguments: Sequence[str]) -> int:
    """Run lm_eval's command line with ``metalm`` among its models.

    Args:
        arguments: lm_eval's, and :data:`OFFLINE` anywhere among them.

    Returns:
        The exit code.
    """
    if OFFLINE_FLAG in arguments:
        # Before anything that reads them is imported.
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        register()
        from lm_eval.__main__ import cli_evaluate

        sys.argv = ["lm-eval", *(argument for argument in arguments if argument != OFFLINE_FLAG)]
        cli_evaluate()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except MetalmError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit_code)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if os.environ.get("LMEVAL_LOG_LEVEL", "").upper() == "DEBUG":
            raise
        detail = " ".join(str(error).split()) or "no message"
        print(f"error: lm_eval: {type(error).__name__}: {detail}", file=sys.stderr)
        print("  remedy: LMEVAL_LOG_LEVEL=DEBUG shows the traceback", file=sys.stderr)
        return int(Exit.FAILED)
    return int(Exit.DONE)
