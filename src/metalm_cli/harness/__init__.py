"""Backend for lm-evaluation-harness: its command line with the model ``metalm``, which shares prefixes.

``python -m metalm_cli.harness`` takes lm_eval's own arguments. lm_eval does not discover plug-ins, so this module
registers the model in the same process before it calls lm_eval's command line.
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
"""The only argument that is not lm_eval's: run without network connections."""
MIN_LM_EVAL_VERSION = "0.4.13"
"""Oldest lm_eval that is known to work."""
REQUIREMENTS = (f"lm-eval>={MIN_LM_EVAL_VERSION}", "pytablewriter>=1.0")
"""What the extra ``harness`` installs. Older versions of pytablewriter print lm_eval's tables without headings."""


def require_lm_eval() -> None:
    """Check that lm_eval is installed.

    Raises:
        MetalmError: It is not installed.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise _lm_eval_error("lm_eval is not installed")


def _lm_eval_error(problem: str) -> MetalmError:
    return MetalmError(
        problem,
        why="tasks of the harness need lm-evaluation-harness, an optional dependency",
        remedy=f"python -m pip install {' '.join(map(repr, REQUIREMENTS))}",
    )


def register() -> None:
    """Register ``metalm`` in lm_eval's model registry, in this process.

    Raises:
        MetalmError: lm_eval is not installed, or too old.
    """
    require_lm_eval()
    try:
        import lm_eval.models  # noqa: F401  (lm_eval fills its registry only while it is empty)
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
    batch_size: int | None = None,
    out: str | Path | None = None,
    offline: bool = False,
    dock: str | None = None,
) -> list[str]:
    """Return the command line that evaluates a model on lm_eval's tasks, for ``subprocess.run``.

    Args:
        model: A run folder, a model folder or a hub id.
        tasks: Names of lm_eval's tasks or groups, or YAML files of tasks.
        limit: Examples of each task; None: all.
        shots: Number of demonstrations; None: the default of each task.
        batch_size: Batch size of generation; None: chosen for the device.
        out: Folder for lm_eval's result files, with its samples.
        offline: Run without network connections.
        dock: Name of the encoder that reads the contexts; None: the decoder reads them.

    Raises:
        MetalmError: lm_eval is not installed, ``tasks`` is empty, or a name contains characters that lm_eval parses.
    """
    require_lm_eval()
    if not tasks:
        raise MetalmError("no task of lm_eval is named", remedy="name a task, such as --harness hellaswag")
    for name in (str(model), *tasks):
        if set(name) & set(",'\"[](){}"):
            raise MetalmError(
                f"the name {name!r} contains a character that lm_eval does not accept",
                why="lm_eval splits its arguments at commas and parses quotes and brackets",
                remedy="rename the file or folder, or link to it under a plain name",
            )
    model_args = f"pretrained={model}" + (f",dock={dock}" if dock else "")
    command = [sys.executable, "-m", __name__, *([OFFLINE_FLAG] if offline else []), "run"]
    command += ["--model", MODEL_NAME, "--model_args", model_args, "--tasks", *tasks]
    command += ["--batch_size", "auto" if batch_size is None else str(batch_size)]
    for flag, value in (("--limit", limit), ("--num_fewshot", shots), ("--output_path", out)):
        command += [] if value is None else [flag, str(value)]
    return [*command, "--log_samples"] if out is not None else command


def main(arguments: Sequence[str]) -> int:
    """Run lm_eval's command line with ``metalm`` among its models.

    Args:
        arguments: Arguments of lm_eval, with :data:`OFFLINE_FLAG` at any position.

    Returns:
        The exit code.
    """
    if OFFLINE_FLAG in arguments:
        # Before the import of any module that reads them.
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
