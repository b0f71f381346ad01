"""Hugging Face models of the hub and of its cache, and error messages for failed downloads."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metalm_cli.common.atomic_files import is_disk_full
from metalm_cli.common.hub_downloads import check_downloaded_files, limited_waiting
from metalm_cli.errors import MetalmError

ALLOWED_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken"]
"""Patterns of the files that are downloaded from a model repository: no pickles, no code."""
IGNORED_FILES = ["*/*", "consolidated*", "*.fp16.*"]
"""Patterns of files that are not downloaded: subfolders (exports for other libraries), second copies of weights."""
NESTED_FOLDERS = {"metalm_adapter.json": ("decoder", "encoders"), "config.json": ("processors",)}
"""Subfolders of MetaLM models and adapters, by the file that identifies them."""
WEIGHT_FILES = "*.safetensors"

_REVISION = re.compile(r"^[\w][\w.+-]*(/[\w][\w.+-]*)*$")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{4,}")


def hub_folder(
    name: str, *, revision: str | None = None, offline: bool = False, weights: bool = True, code: bool = False
) -> tuple[Path, bool]:
    """Return the folder of a model or tokenizer of the hub, downloading it if needed, and whether it was in the cache.

    The folder holds the repository's safetensors, JSON and tokenizer files. With a connection, the hub decides whether
    a cached copy is current.

    Args:
        name: A hub id (``name`` or ``owner/name``).
        revision: Branch, tag or commit.
        offline: Do not open connections: a model that is not cached is an error.
        weights: Weights are required. If False, none are downloaded, and a repository with only a tokenizer is
            accepted.
        code: Also download the repository's Python files; only for repositories whose code may run.

    Raises:
        MetalmError: No such repository, no access, no connection, a damaged download, or no weights in safetensors.
    """
    if revision is not None and (not _REVISION.match(revision) or ".." in revision):
        raise MetalmError(f"{revision!r} is not a valid revision", where=name, remedy="use a branch, a tag or a commit")
    cached: Path | None = None
    with contextlib.nullcontext() if offline else limited_waiting():
        if not offline:
            offline = not _is_reachable(name, revision, weights)
            with contextlib.suppress(MetalmError):
                cached = _snapshot(name, revision, True, weights, code)
        folder = _snapshot(name, revision, offline, weights, code)
    check_downloaded_files(name, folder)
    if weights and not any(folder.glob(WEIGHT_FILES)) and not _nested_folders(folder):
        raise _no_safetensors_error(name, str(folder))
    return folder, offline or folder == cached


def _no_safetensors_error(name: str, where: str) -> MetalmError:
    return MetalmError(
        f"{name} has no weights in safetensors",
        where=where,
        why="weights in other formats (*.bin) are pickles, which can run code, and are not loaded",
        remedy="use a revision that has safetensors (many have one at refs/pr/N), or convert the model: load it in a "
        "sandbox and save_pretrained it into a folder",
    )


def _is_reachable(name: str, revision: str | None, weights: bool) -> bool:
    """Whether the hub is reachable and has a usable repository; False if it fails and the cache has a copy.

    Raises:
        MetalmError: The hub refuses the request, or it fails and the cache has no copy.
    """
    from huggingface_hub import HfApi

    try:
        files = [file.rfilename for file in HfApi().model_info(name, revision=revision).siblings or []]
    except Exception as error:
        problem = explain_hub_error(error, name)
        if any(_is_refusal(cause) for cause in _causes(error)):
            raise problem from error
        try:
            _snapshot(name, revision, True, weights)
        except MetalmError:
            raise problem from error
        logging.getLogger("metalm").warning("%s; using the cached copy of %s", problem.what, name)
        return False
    adapter = any(file in NESTED_FOLDERS and file != "config.json" for file in files)
    if weights and not adapter and not any(file.endswith(".safetensors") and "/" not in file for file in files):
        raise _no_safetensors_error(name, f"{_endpoint()}/{name}")
    return True


def _is_refusal(cause: BaseException) -> bool:
    """Return whether the hub itself refuses a request, unlike a hub that fails or a login page of the network."""
    status = _status_of(cause)
    if status is None or status >= 500 or status in (408, 429):
        return False
    response: Any = getattr(cause, "response", None)
    return "html" not in response.headers.get("content-type", "")


def _snapshot(name: str, revision: str | None, offline: bool, weights: bool, code: bool = False) -> Path:
    from huggingface_hub import snapshot_download

    patterns = ALLOWED_FILES if weights else [pattern for pattern in ALLOWED_FILES if "safetensors" not in pattern]
    if code:
        patterns = [*patterns, "*.py"]
    try:
        with no_connections(offline):
            options: dict[str, Any] = {"revision": revision, "local_files_only": offline}
            folder = Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=IGNORED_FILES, **options))
            nested_folders = _nested_folders(folder)
            if nested_folders:
                # Use the same commit: the revision may have changed meanwhile.
                options["revision"] = folder.name if _COMMIT.fullmatch(folder.name) else revision
                nested_patterns = [
                    f"{nested_folder}/{pattern}" for nested_folder in nested_folders for pattern in patterns
                ]
                snapshot_download(name, allow_patterns=nested_patterns, **options)
    except Exception as error:
        raise explain_hub_error(error, name) from error
    return folder


def _nested_folders(folder: Path) -> tuple[str, ...]:
    """Subfolders that a MetaLM model or adapter consists of, besides its own files."""
    for name, nested in NESTED_FOLDERS.items():
        file = folder / name
        if name == "config.json" and file.is_file() and not _is_metalm(file):
            continue
        if file.is_file():
            return nested
    return ()


def _is_metalm(config: Path) -> bool:
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("model_type") == "metalm"


@contextlib.contextmanager
def no_connections(offline: bool = True) -> Iterator[None]:
    """Context manager that restricts the Hugging Face libraries to their caches; no effect if not ``offline``."""
    if not offline:
        yield
        return
    import sys

    from huggingface_hub import constants

    switches = [(constants, "HF_HUB_OFFLINE")]
    if "datasets" in sys.modules:
        config = sys.modules["datasets"].config
        switches += [(config, "HF_HUB_OFFLINE"), (config, "HF_DATASETS_OFFLINE")]
    previous_values = [(owner, name, getattr(owner, name)) for owner, name in switches]
    for owner, name in switches:
        setattr(owner, name, True)
    try:
        yield
    finally:
        for owner, name, value in previous_values:
            setattr(owner, name, value)


def explain_hub_error(error: BaseException, repo: str) -> MetalmError:
    """Turn an error of the Hugging Face libraries into a :class:`MetalmError` with a reason and a remedy.

    Args:
        error: The error; its causes are examined as well.
        repo: Name of the requested model or data set.
    """
    if isinstance(error, MetalmError):
        return error
    chain = _causes(error)
    kinds = (
        _disk_error,
        _repository_error,
        _status_error,
        _offline_error,
        _connection_error,
        _page_error,
        _damage_error,
    )
    for describe in kinds:
        for cause in chain:
            problem = describe(cause, repo)
            if problem is not None:
                return problem
    return MetalmError(
        f"{repo} could not be loaded from the hub",
        where=repo,
        why=f"{type(error).__name__}: {_redacted_message(error)}",
        remedy="check the name; the repository's page on the hub describes how to load it",
    )


def _causes(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return chain


def _disk_error(cause: BaseException, repo: str) -> MetalmError | None:
    if not isinstance(cause, OSError) or not (is_disk_full(cause) or "Not enough disk space" in str(cause)):
        return None
    return MetalmError(
        f"no space left while downloading {repo}",
        where=str(cause.filename or _cache()),
        why=cause.strerror or _redacted_message(cause),
        remedy="free some space, or set HF_HOME to a folder on a larger disk; the download resumes where it stopped",
    )


def _repository_error(cause: BaseException, repo: str) -> MetalmError | None:
    from huggingface_hub import errors

    if isinstance(cause, errors.GatedRepoError):
        return _access_error(repo, _status_of(cause), "the repository is gated")
    if isinstance(cause, errors.RevisionNotFoundError):
        return MetalmError(
            f"{repo} has no such revision on the hub",
            where=repo,
            why=_redacted_message(cause),
            remedy="correct `revision`: a branch, a tag or a commit of the repository",
        )
    if isinstance(cause, errors.RepositoryNotFoundError):
        return MetalmError(
            f"{repo} is not on the hub",
            where=_endpoint(),
            why="the repository does not exist, or it is private",
            remedy="check the name; for a private repository log in first (hf auth login)",
        )
    return None


def _status_error(cause: BaseException, repo: str) -> MetalmError | None:
    status = _status_of(cause)
    if status is None:
        return None
    if status in (401, 403):
        return _access_error(repo, status, "the hub refuses access")
    if status == 404:
        return MetalmError(
            f"{repo} lacks a file on the hub",
            where=repo,
            why=_redacted_message(cause),
            remedy="check the name and revision",
        )
    if status == 429:
        return MetalmError(
            f"the hub limits the rate of requests for {repo}",
            where=_endpoint(),
            why="status 429",
            remedy="wait a few minutes, or log in (hf auth login) for a higher rate limit",
        )
    return MetalmError(
        f"the hub failed to serve {repo}",
        where=_endpoint(),
        why=f"status {status}",
        remedy="try again later; if the cache has a copy, use --offline",
    )


def _status_of(cause: BaseException) -> int | None:
    response = getattr(cause, "response", None)
    status = getattr(response, "status_code", None)
    return status if isinstance(status, int) and status >= 400 else None


def _access_error(repo: str, status: int | None, why: str) -> MetalmError:
    login = "log in with `hf auth login`" if status != 403 else "ask for access on the repository's hub page"
    return MetalmError(
        f"no access to {repo}",
        where=_endpoint(),
        why=f"{why} (status {status})",
        remedy=f"{login}, then run again; gated repositories need both a login and granted access",
    )


def _offline_error(cause: BaseException, repo: str) -> MetalmError | None:
    from huggingface_hub import constants, errors

    offline_mode = isinstance(cause, errors.OfflineModeIsEnabled) or "OfflineModeIsEnabled" in str(cause)
    not_cached = isinstance(cause, errors.LocalEntryNotFoundError) and cause.__cause__ is None
    if not (offline_mode or (not_cached and not _is_connection_error(cause))):
        return None
    incomplete = isinstance(cause, errors.IncompleteSnapshotError)
    reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "connections are off"
    return MetalmError(
        f"{repo} is not {'completely ' if incomplete else ''}on this machine, and {reason}",
        where=_cache(),
        remedy="run once without --offline to download it, or pass a folder",
    )


def _connection_error(cause: BaseException, repo: str) -> MetalmError | None:
    if not _is_connection_error(cause):
        return None
    return MetalmError(
        f"the hub cannot be reached for {repo}",
        where=_endpoint(),
        why=f"{type(cause).__name__}: {_redacted_message(cause)}",
        remedy="check the network connection (HF_ENDPOINT selects another hub), or use cached files with --offline",
    )


def _page_error(cause: BaseException, repo: str) -> MetalmError | None:
    if not isinstance(cause, json.JSONDecodeError):
        return None
    return MetalmError(
        f"the hub cannot be reached for {repo}",
        where=_endpoint(),
        why="the answer is not JSON, as from the login page of a network",
        remedy="open the address in a browser, and log in to the network; or use cached files with --offline",
    )


def _is_connection_error(cause: BaseException) -> bool:
    if isinstance(cause, (ConnectionError, TimeoutError, socket.gaierror)):
        return True
    parents = {kind.__name__ for kind in type(cause).__mro__ if kind.__module__.startswith(("httpx", "requests"))}
    return bool(parents & {"TransportError", "ConnectionError", "Timeout"})


def _damage_error(cause: BaseException, repo: str) -> MetalmError | None:
    if not (isinstance(cause, OSError) and "Consistency check failed" in str(cause)):
        return None
    return MetalmError(
        f"a download of {repo} is damaged",
        where=_endpoint(),
        why=_redacted_message(cause),
        remedy="run the command again; it repeats the download",
    )


def _redacted_message(error: BaseException) -> str:
    """Message of an error on one line, shortened, without access tokens."""
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
