"""The limited process that reads files from others: no network, no files, little memory, little time.

It reads requests from standard input, one JSON value a line: first the cards, then files. It answers each file with a
line of JSON. It is started by :mod:`metalm_cli.templates.importers.sandbox`, which believes none of it.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
from typing import Any

from metalm_cli.tasks import Card
from metalm_cli.templates.importers import flan, natural_instructions, promptsource
from metalm_cli.templates.importers.draft import ImportRefused
from metalm_cli.templates.importers.trial_render import render_drafts

MEMORY = 1 << 30
"""Bytes of address space."""
ANSWERS = 64 << 20
"""Bytes that may be written."""
CPU_SECONDS = 20
"""Processor time of one file."""
READERS = {
    "flan": flan.read,
    "promptsource": promptsource.read,
    "natural-instructions": natural_instructions.read,
}
_EVENTS = ("socket.", "subprocess.", "os.", "shutil.", "ctypes.", "pty.", "ftplib.", "urllib.", "http.", "tempfile.")
_HARMLESS = frozenset({"os.listdir", "os.scandir"})
"""Raised by the search for modules."""


def drop_privileges() -> None:
    """Give up what reading templates does not need. There is no way back."""
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, ANSWERS)
    _limit(resource.RLIMIT_AS, MEMORY)
    _without_network()
    sys.addaudithook(_refuse)


def _limit(which: int, most: int) -> None:
    with contextlib.suppress(ValueError, OSError):  # a system without this limit; the others hold
        hard = resource.getrlimit(which)[1]
        resource.setrlimit(which, (most, most) if hard == resource.RLIM_INFINITY else (min(most, hard), hard))


def _without_network() -> None:
    """A network namespace without devices, where the system lets us have one."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    user, network = 0x10000000, 0x40000000
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(network) != 0:
        library.unshare(user | network)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        mode = arguments[1]
        if isinstance(mode, str) and set(mode) & set("wax+"):
            raise PermissionError("files are not written here")
    elif event.startswith(_EVENTS) and event not in _HARMLESS:
        raise PermissionError(f"{event} is not for this process")


def _more_time() -> None:
    """Processor time for the next file; the system kills what takes more."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = int(usage.ru_utime + usage.ru_stime) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (used + CPU_SECONDS, resource.RLIM_INFINITY))


def answer(request: dict[str, Any], cards: dict[str, Card]) -> dict[str, Any]:
    """What becomes of a file: its template files, or why it is refused."""
    try:
        drafts = READERS[request["format"]](request["text"], cards, request["name"])
        return {"name": request["name"], "files": [render_drafts(file) for file in drafts]}
    except ImportRefused as error:
        return {"name": request["name"], "refused": str(error)}
    except (RecursionError, MemoryError) as error:
        return {"name": request["name"], "refused": f"it goes beyond the limits: {type(error).__name__}"}


def main() -> None:
    """Answer every file of standard input."""
    cards = {name: Card.model_validate(values) for name, values in json.loads(sys.stdin.readline()).items()}
    drop_privileges()
    for line in sys.stdin:
        with contextlib.suppress(ValueError, OSError):  # a system without this limit; the others hold
            _more_time()
        sys.stdout.write(json.dumps(answer(json.loads(line), cards)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
