"""Hugging Face models by name: on this machine first, then from the hub; and what to do when that fails."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metalm_cli.errors import MetalmError

ALLOWED = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken"]
"""Files of a model repository that are ever downloaded: no pickles, no code."""
IGNORED = ["*/*", "consolidated*", "*.fp16.*"]
"""Not these: folders (exports for other libraries), second copies of the weights."""
NESTED = {"metalm_adapter.json": ("decoder", "encoders"), "config.json": ("processors",)}
"""Folders of our own models and adapters, by the file that may say that they are such."""
WEIGHTS = "*.safetensors"
TIMEOUT = 20.0
"""Seconds that the hub may take for its first answer."""

_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
_REVISION = re.compile(r"^[\w][\w.+-]*(/[\w][\w.+-]*)*$")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{4,}")
_DISK = (errno.ENOSPC, errno.EDQUOT)


def model_folder(
    name: str, *, revision: str | None = None, offline: bool = False, weights: bool = True, code: bool = False
) -> Path:
    """The folder of a model or tokenizer.

    An existing folder; else ``$METALM_CHECKPOINTS/<name>`` or its last part there; else a download of the
    repository's safetensors, JSON and tokenizer files into the Hugging Face cache.

    Args:
        name: A folder, or a hub id (``name`` or ``owner/name``).
        revision: Branch, tag or commit on the hub; local folders have none and are not asked.
        offline: Open no connection: what is not at hand or in the cache is an error.
        weights: Weights are needed; without, a repository that holds a tokenizer alone will do, and no weights
            are downloaded.
        code: Download the repository's Python files, too: only where its code may run.

    Raises:
        MetalmError: No such folder or repository, no access, no connection, or no weights in safetensors.
    """
    local = Path(name).expanduser()
    if name and local.is_dir():
        return local
    if not _NAME.match(name) or ".." in name:
        raise _no_folder(name)
    found = _local_checkpoint(name)
    if found is not None:
        return found
    if revision is not None and (not _REVISION.match(revision) or ".." in revision):
        raise MetalmError(f"{revision!r} is no revision", where=name, remedy="give a branch, a tag or a commit")
    if not offline:
        offline = not _answers(name, revision, weights)
    folder = _snapshot(name, revision, offline, weights, code)
    if weights and not any(folder.glob(WEIGHTS)) and not _nested(folder):
        raise _no_safetensors(name, str(folder))
    return folder


def _no_safetensors(name: str, where: str) -> MetalmError:
    return MetalmError(
        f"{name} has no weights in safetensors",
        where=where,
        why="weights in other formats (*.bin) are pickles, which can run code, and are not read",
        remedy="use a revision that has safetensors (many have one at refs/pr/N), or convert the model: load it in a "
        "sandbox and save_pretrained it into a folder",
    )


def _no_folder(name: str) -> MetalmError:
    return MetalmError(
        f"There is no model folder {name}",
        where=str(Path(name).expanduser().absolute()),
        why="the folder does not exist, and this is no hub id (name or owner/name)",
        remedy="correct the path",
    )


def _local_checkpoint(name: str) -> Path | None:
    root = os.environ.get("METALM_CHECKPOINTS")
    if not root:
        return None
    for part in (name, name.split("/")[-1]):
        folder = Path(root).expanduser() / part
        if folder.is_dir():
            return folder
    return None


def _answers(name: str, revision: str | None, weights: bool) -> bool:
    """Whether the hub answers for a repository that will do; False if it fails but the cache has a copy.

    Raises:
        MetalmError: The hub says no, or fails and the cache has no copy.
    """
    from huggingface_hub import HfApi

    try:
        files = [file.rfilename for file in HfApi().model_info(name, revision=revision, timeout=TIMEOUT).siblings or []]
    except Exception as error:
        problem = explain(error, name)
        if not any(_connection(cause) or (_status_of(cause) or 0) >= 500 for cause in _causes(error)):
            raise problem from error
        try:
            _snapshot(name, revision, True, weights)
        except MetalmError:
            raise problem from error
        logging.getLogger("metalm").warning("%s; the copy of %s in the cache is used", problem.what, name)
        return False
    adapter = any(file in NESTED and file != "config.json" for file in files)
    if weights and not adapter and not any(file.endswith(".safetensors") and "/" not in file for file in files):
        raise _no_safetensors(name, f"{_endpoint()}/{name}")
    return True


def _snapshot(name: str, revision: str | None, offline: bool, weights: bool, code: bool = False) -> Path:
    from huggingface_hub import snapshot_download

    allowed = ALLOWED if weights else [pattern for pattern in ALLOWED if "safetensors" not in pattern]
    if code:
        allowed = [*allowed, "*.py"]
    try:
        with no_connections(offline):
            asked: dict[str, Any] = {"revision": revision, "local_files_only": offline}
            folder = Path(snapshot_download(name, allow_patterns=allowed, ignore_patterns=IGNORED, **asked))
            nested = _nested(folder)
            if nested:
                # Of the same commit: the revision may have moved on meanwhile.
                asked["revision"] = folder.name if _COMMIT.fullmatch(folder.name) else revision
                inside = [f"{one}/{pattern}" for one in nested for pattern in allowed]
                snapshot_download(name, allow_patterns=inside, **asked)
    except Exception as error:
        raise explain(error, name) from error
    return folder


def _nested(folder: Path) -> tuple[str, ...]:
    """Folders that a model or an adapter of ours is made of, beside its own files."""
    for name, nested in NESTED.items():
        file = folder / name
        if name == "config.json" and file.is_file() and not _is_metalm(file):
            continue
        if file.is_file():
            return nested
    return ()


def _is_metalm(config: Path) -> bool:
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("model_type") == "metalm"


@contextmanager
def no_connections(offline: bool = True) -> Iterator[None]:
    """Hold the Hugging Face libraries to their caches while the block runs; does nothing if not ``offline``."""
    if not offline:
        yield
        return
    import sys

    from huggingface_hub import constants

    switches = [(constants, "HF_HUB_OFFLINE")]
    if "datasets" in sys.modules:
        config = sys.modules["datasets"].config
        switches += [(config, "HF_HUB_OFFLINE"), (config, "HF_DATASETS_OFFLINE")]
    before = [(owner, name, getattr(owner, name)) for owner, name in switches]
    for owner, name in switches:
        setattr(owner, name, True)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def explain(error: BaseException, repo: str) -> MetalmError:
    """What a failure of the hub means for the user, and what to do about it.

    Args:
        error: What the Hugging Face libraries raised; its causes are looked at too.
        repo: The model or data set that was asked for.
    """
    if isinstance(error, MetalmError):
        return error
    chain = _causes(error)
    for step in (_full_disk, _refused, _status, _offline, _unreachable, _broken):
        for cause in chain:
            found = step(cause, repo)
            if found is not None:
                return found
    return MetalmError(
        f"{repo} could not be loaded from the hub",
        where=repo,
        why=f"{type(error).__name__}: {_plain(error)}",
        remedy="check the name; the hub's page of the repository says how it is meant to be loaded",
    )


def _causes(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return chain


def _full_disk(cause: BaseException, repo: str) -> MetalmError | None:
    if not isinstance(cause, OSError) or (cause.errno not in _DISK and "Not enough disk space" not in str(cause)):
        return None
    return MetalmError(
        f"No space left while downloading {repo}",
        where=str(cause.filename or _cache()),
        why=cause.strerror or _plain(cause),
        remedy="free some space, or set HF_HOME to a folder on a larger disk; a download goes on where it stopped",
    )


def _refused(cause: BaseException, repo: str) -> MetalmError | None:
    from huggingface_hub import errors

    if isinstance(cause, errors.GatedRepoError):
        return _no_access(repo, _status_of(cause), "the repository is gated")
    if isinstance(cause, errors.RevisionNotFoundError):
        return MetalmError(
            f"{repo} has no such revision on the hub",
            where=repo,
            why=_plain(cause),
            remedy="correct `revision`: a branch, a tag or a commit of the repository",
        )
    if isinstance(cause, errors.RepositoryNotFoundError):
        return MetalmError(
            f"{repo} is not on the hub",
            where=_endpoint(),
            why="the hub knows no such repository, or it is private",
            remedy="check the name; for a private repository log in first (hf auth login)",
        )
    return None


def _status(cause: BaseException, repo: str) -> MetalmError | None:
    status = _status_of(cause)
    if status is None:
        return None
    if status in (401, 403):
        return _no_access(repo, status, "the hub refuses access")
    if status == 404:
        return MetalmError(
            f"{repo} lacks a file on the hub", where=repo, why=_plain(cause), remedy="check the name and revision"
        )
    if status == 429:
        return MetalmError(
            f"The hub limits the rate of requests for {repo}",
            where=_endpoint(),
            why="status 429",
            remedy="wait some minutes, or log in (hf auth login), which raises the limit",
        )
    return MetalmError(
        f"The hub failed while {repo} was asked for",
        where=_endpoint(),
        why=f"status {status}",
        remedy="try again later; with a copy in the cache, --offline needs no hub",
    )


def _status_of(cause: BaseException) -> int | None:
    response = getattr(cause, "response", None)
    status = getattr(response, "status_code", None)
    return status if isinstance(status, int) and status >= 400 else None


def _no_access(repo: str, status: int | None, why: str) -> MetalmError:
    login = "log in with `hf auth login`" if status != 403 else "ask for access on the repository's hub page"
    return MetalmError(
        f"No access to {repo}",
        where=_endpoint(),
        why=f"{why} (status {status})",
        remedy=f"{login}, then run again; gated repositories need both a login and granted access",
    )


def _offline(cause: BaseException, repo: str) -> MetalmError | None:
    from huggingface_hub import constants, errors

    known = isinstance(cause, errors.OfflineModeIsEnabled) or "OfflineModeIsEnabled" in str(cause)
    missing = isinstance(cause, errors.LocalEntryNotFoundError) and cause.__cause__ is None
    if not (known or (missing and not _connection(cause))):
        return None
    partly = isinstance(cause, errors.IncompleteSnapshotError)
    switched = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "connections are off"
    return MetalmError(
        f"{repo} is not {'wholly ' if partly else ''}on this machine, and {switched}",
        where=_cache(),
        remedy="run once without --offline to download it, or give a folder",
    )


def _unreachable(cause: BaseException, repo: str) -> MetalmError | None:
    if not _connection(cause):
        return None
    return MetalmError(
        f"The hub cannot be reached for {repo}",
        where=_endpoint(),
        why=f"{type(cause).__name__}: {_plain(cause)}",
        remedy="check the network (HF_ENDPOINT names another hub); what is in the cache works with --offline",
    )


def _connection(cause: BaseException) -> bool:
    if isinstance(cause, (ConnectionError, TimeoutError, socket.gaierror)):
        return True
    parents = {kind.__name__ for kind in type(cause).__mro__ if kind.__module__.startswith(("httpx", "requests"))}
    return bool(parents & {"TransportError", "ConnectionError", "Timeout"})


def _broken(cause: BaseException, repo: str) -> MetalmError | None:
    if not (isinstance(cause, OSError) and "Consistency check failed" in str(cause)):
        return None
    return MetalmError(
        f"A download of {repo} came in damaged",
        where=_endpoint(),
        why=_plain(cause),
        remedy="run again; the file is downloaded anew",
    )


def _plain(error: BaseException) -> str:
    """The first lines of a message on one line, without tokens."""
    text = " ".join(str(error).split())
    token = os.environ.get("HF_TOKEN")
    if token:
        text = text.replace(token, "<token>")
    text = _TOKEN.sub("<token>", text)
    return text if len(text) <= 300 else text[:297] + "..."


def _endpoint() -> str:
    from huggingface_hub import constants

    return re.sub(r"//[^/@]*@", "//", constants.ENDPOINT)


def _cache() -> str:
    from huggingface_hub import constants

    return constants.HF_HUB_CACHE
