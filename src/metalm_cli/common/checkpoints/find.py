"""The one way from the name of a checkpoint to a folder with its files."""

from __future__ import annotations

import os
import re
from pathlib import Path

from metalm_cli.common.checkpoints.gguf_file import dequantised_folder, is_gguf
from metalm_cli.common.checkpoints.origin import Checkpoint, Origin, read_origin
from metalm_cli.common.checkpoints.package_table import checkpoint_packages
from metalm_cli.common.checkpoints.packages import PackageUnavailableError, find_in_package
from metalm_cli.common.hub import hub_folder
from metalm_cli.common.paths import expand_user
from metalm_cli.common.registry import did_you_mean
from metalm_cli.errors import MetalmError

_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")


def find_checkpoint(
    name: str, *, revision: str | None = None, offline: bool = False, weights: bool = True, code: bool = False
) -> Checkpoint:
    """Find a model or tokenizer: in a folder or GGUF file, in ``$METALM_CHECKPOINTS``, in an installed package, in the
    hub's cache, on the hub, in this order.

    Args:
        name: A folder; a ``.gguf`` file; or a name (``name`` or ``owner/name``): of a folder or ``.gguf`` file in
            ``$METALM_CHECKPOINTS`` (or the last part of the name there), of a package's checkpoint, or of the hub.
        revision: Branch, tag or commit on the hub; ignored for local folders. A package has no other revision than its
            own, and does not answer to a name with a revision.
        offline: Do not open connections: a model that is neither local nor cached is an error.
        weights: Weights are required. If False, none are downloaded, and a repository with only a tokenizer is
            accepted.
        code: Also download the repository's Python files; only for repositories whose code may run.

    Raises:
        MetalmError: No such folder, package or repository, no access, no connection, a damaged file, or no weights in
            safetensors.
    """
    local, problem = _find_locally(name, revision)
    if local is not None:
        return local
    if not _is_name(name) or _is_beside_runs(name):
        raise _missing_folder_error(name)
    if problem is not None and "/" not in name:
        raise problem
    try:
        folder, was_cached = hub_folder(name, revision=revision, offline=offline, weights=weights, code=code)
    except MetalmError as error:
        raise _with_package_hint(error, name, problem) from error
    return Checkpoint(name, folder, Origin("hub's cache" if was_cached else "hub", f"commit {folder.name[:12]}"))


def model_folder(
    name: str, *, revision: str | None = None, offline: bool = False, weights: bool = True, code: bool = False
) -> Path:
    """Return the folder of :func:`find_checkpoint`, with the same arguments and errors."""
    return find_checkpoint(name, revision=revision, offline=offline, weights=weights, code=code).folder


def find_local_checkpoint(name: str) -> Checkpoint | None:
    """Find a checkpoint without the hub and its cache; None if there is none.

    Raises:
        MetalmError: A file is damaged, or cannot be unpacked or dequantised.
    """
    return _find_locally(name, None)[0]


def names_local_checkpoint(name: str) -> bool:
    """Whether a name is that of a local checkpoint, or of a package that may not be installed; nothing is unpacked."""
    try:
        return _local_path(name) is not None or name in checkpoint_packages()
    except OSError:  # the text is too long for a file name
        return False


def _is_name(name: str) -> bool:
    return _NAME.match(name) is not None and ".." not in name


def _find_locally(name: str, revision: str | None) -> tuple[Checkpoint | None, PackageUnavailableError | None]:
    """Return the checkpoint, or why the package with this name cannot be used, if there is one."""
    located = _local_path(name)
    if located is not None:
        path, place = located
        if path.is_dir():
            return Checkpoint(name, path, read_origin(path) or Origin(place, str(path))), None
        folder, origin = dequantised_folder(path)
        return Checkpoint(name, folder, origin), None
    package = checkpoint_packages().get(name) if revision is None else None
    if package is None:
        return None, None
    try:
        return find_in_package(package), None
    except PackageUnavailableError as error:
        return None, error


def _local_path(name: str) -> tuple[Path, str] | None:
    """Return a folder or GGUF file and the place where it is: a path, or ``METALM_CHECKPOINTS``."""
    path = expand_user(name)
    if name and (path.is_dir() or is_gguf(path)):
        return path, "folder"
    root = os.environ.get("METALM_CHECKPOINTS")
    if not root or not _is_name(name):
        return None
    candidates = (expand_user(root) / relative for relative in (name, name.split("/")[-1]))
    local = next((candidate for candidate in candidates if candidate.is_dir() or is_gguf(candidate)), None)
    return None if local is None else (local, "METALM_CHECKPOINTS")


def _with_package_hint(error: MetalmError, name: str, problem: PackageUnavailableError | None) -> MetalmError:
    """Add to an error of the hub why the package does not answer, or which name of a package is similar."""
    if problem is not None:
        hint = f"{problem.what}{f' ({problem.why})' if problem.why else ''}"
        why, remedy = "; ".join(filter(None, [error.why, hint])), f"{error.remedy}; or {problem.remedy}"
    else:
        hint = did_you_mean(name, checkpoint_packages(), 0.7)
        if not hint:
            return error
        why, remedy = error.why, f"{hint} or {error.remedy}"
    return MetalmError(error.what, where=error.where, why=why, remedy=remedy, exit_code=error.exit_code)


def _missing_folder_error(name: str) -> MetalmError:
    path = expand_user(name)
    if path.is_file():
        return MetalmError(
            f"{name} is a file, expected a model folder or a .gguf file",
            where=str(path.absolute()),
            remedy="name the folder that holds config.json and the weights",
        )
    return MetalmError(
        f"no model folder {name}",
        where=str(path.absolute()),
        why="the folder does not exist, and the name is not a hub id (name or owner/name)"
        if not _is_name(name)
        else f"the folder does not exist, and {path.parent} holds runs, so the name is not taken as a hub id",
        remedy=_similar_path(path) or "correct the path",
    )


def _is_beside_runs(name: str) -> bool:
    """Whether the first part of a name is a folder with runs; then the name is a path, not ``owner/name``."""
    parent = expand_user(name).parent
    return "/" in name and any(True for _ in parent.glob("*/recipe.yaml"))


def _similar_path(path: Path) -> str:
    """Ask for an existing path whose first missing part is similar; empty if there is none."""
    import difflib

    missing = next((part for part in (*reversed(path.parents), path) if not part.exists()), path)
    if not missing.parent.is_dir():
        return ""
    siblings = {sibling.name: sibling / path.relative_to(missing) for sibling in missing.parent.iterdir()}
    names = [name for name, candidate in siblings.items() if candidate.is_dir() or is_gguf(candidate)]
    matches = difflib.get_close_matches(missing.name, names, n=1)
    return f"did you mean {siblings[matches[0]]}?" if matches else ""
