"""The sandboxed process that parses imported files, without network or file writes and with limits on memory and time.

It reads requests from standard input, one JSON value per line: first the cards, then the files. It answers each file
with a line of JSON. :mod:`metalm_cli.templates.importers.sandbox` starts it and treats its output as untrusted.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
from typing import Any

from metalm_cli.common.registry.registry import import_target
from metalm_cli.tasks import Card
from metalm_cli.templates.importers.draft import ImportRefused, TemplateImporter
from metalm_cli.templates.importers.trial_render import render_drafts

MAX_MEMORY_BYTES = 1 << 30
"""Maximum bytes of address space."""
MAX_OUTPUT_BYTES = 64 << 20
"""Maximum bytes of output."""
FILE_CPU_S = 60
"""Processor time per file, in seconds."""
_REFUSED_EVENTS = (
    "socket.",
    "subprocess.",
    "os.",
    "shutil.",
    "ctypes.",
    "pty.",
    "ftplib.",
    "urllib.",
    "http.",
    "tempfile.",
)
_ALLOWED_EVENTS = frozenset({"os.listdir", "os.scandir"})
"""Audit events of the module search, which are allowed."""


def drop_privileges() -> None:
    """Drop privileges that reading templates does not need; this cannot be undone."""
    _set_limit(resource.RLIMIT_CORE, 0)
    _set_limit(resource.RLIMIT_FSIZE, MAX_OUTPUT_BYTES)
    _set_limit(resource.RLIMIT_AS, MAX_MEMORY_BYTES)
    _drop_network()
    sys.addaudithook(_audit_hook)


def _set_limit(kind: int, maximum: int) -> None:
    with contextlib.suppress(ValueError, OSError):  # some systems lack this limit; the others still apply
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (maximum, maximum) if hard == resource.RLIM_INFINITY else (min(maximum, hard), hard))


def _drop_network() -> None:
    """Enter a network namespace without devices, if the system allows it."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    user_flag, network_flag = 0x10000000, 0x40000000
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(network_flag) != 0:
        library.unshare(user_flag | network_flag)


def _audit_hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        mode = arguments[1]
        if isinstance(mode, str) and set(mode) & set("wax+"):
            raise PermissionError("writing files is not allowed in this process")
    elif event.startswith(_REFUSED_EVENTS) and event not in _ALLOWED_EVENTS:
        raise PermissionError(f"{event} is not allowed in this process")


def _extend_cpu_limit() -> None:
    """Raise the processor time limit for the next file; the system kills the process beyond it."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = int(usage.ru_utime + usage.ru_stime) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (used + FILE_CPU_S, resource.RLIM_INFINITY))


def read_file(importer: TemplateImporter, request: dict[str, Any], cards: dict[str, Card]) -> dict[str, Any]:
    """Read a file; return its template files, or why it is refused."""
    try:
        drafts = importer.read(request["text"], cards, request["name"])
        return {"name": request["name"], "files": [render_drafts(file) for file in drafts]}
    except ImportRefused as error:
        return {"name": request["name"], "refused": str(error)}
    except (RecursionError, MemoryError) as error:
        return {"name": request["name"], "refused": f"exceeds the limits: {type(error).__name__}"}


def main(importer: TemplateImporter) -> None:
    """Answer every request on standard input."""
    cards = {name: Card.model_validate(values) for name, values in json.loads(sys.stdin.readline()).items()}
    drop_privileges()
    for line in sys.stdin:
        with contextlib.suppress(ValueError, OSError):  # some systems lack this limit; the others still apply
            _extend_cpu_limit()
        sys.stdout.write(json.dumps(read_file(importer, json.loads(line), cards)) + "\n")
        sys.stdout.flush()


def run(target: str) -> None:
    """Answer the requests of a process that was started with the target of an importer."""
    main(import_target(target))
