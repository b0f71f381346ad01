"""Shared fixtures: one thread, only the loopback network, tiny tokenizers and models, and real data if available."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # test helpers are imported by name: tiny_models

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

LOOPBACK = ("localhost", "::1", "0.0.0.0", "::", "")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that take long, by the list of them."""
    from slow_cases import mark_slow

    if items:
        mark_slow(items)


class NetworkBlockedError(RuntimeError):
    """A test opened a network connection. Not an OSError, so that no code takes it for a network failure."""


def _check(host: Any) -> None:
    host_name = host.decode() if isinstance(host, bytes) else host
    if (
        host_name is None
        or host_name in LOOPBACK
        or str(host_name).startswith("127.")
        or host_name == socket.gethostname()
    ):
        return
    raise NetworkBlockedError(f"tests may only use the loopback network, got {host_name!r}")


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """Refuse connections to anything but this machine."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, _guarded(getattr(socket.socket, name)))
        resolve = socket.getaddrinfo

        def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
            _check(host)
            return resolve(host, *args, **kwargs)

        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        yield


def _guarded(connect: Callable[..., Any]) -> Callable[..., Any]:
    def guarded_connect(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            _check(address[0])
        return connect(self, address)

    return guarded_connect


@pytest.fixture(autouse=True, scope="session")
def _no_signal_is_ignored() -> None:
    """Handle signals as in a terminal: nohup makes processes ignore SIGHUP, and a shell's background jobs SIGINT."""
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _folder(variable: str, holds: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set: tests on {holds} are skipped")
    folder = Path(value)
    if not folder.is_dir():
        pytest.skip(f"{variable} is not a folder: {value}")
    return folder


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of real data sets (``METALM_DATA``); skips the test if there is none."""
    return _folder("METALM_DATA", "real data")


@pytest.fixture(scope="session")
def checkpoints() -> Callable[[str], Path]:
    """Function that returns the folder of a real checkpoint in ``METALM_CHECKPOINTS``; skips the test if missing."""

    def find(name: str) -> Path:
        folder = _folder("METALM_CHECKPOINTS", "checkpoints") / name
        if not folder.is_dir():
            pytest.skip(f"METALM_CHECKPOINTS holds no {name}")
        return folder

    return find


@pytest.fixture
def byte_tokenizer() -> Any:
    """Byte-level BPE tokenizer like GPT-2's; adds no start token."""
    return _parts().tokenizer_of("byte")


@pytest.fixture
def llama_tokenizer() -> Any:
    """SentencePiece-type BPE tokenizer with byte fallback like Llama's; adds ``<s>`` and a dummy prefix."""
    return _parts().tokenizer_of("llama")


@pytest.fixture
def encoder_tokenizer() -> Any:
    """WordPiece tokenizer like BERT's."""
    return _parts().tokenizer_of("wordpiece")


@pytest.fixture
def make_decoder() -> Callable[..., Any]:
    """``make_decoder(family, vocab_size, seed=0, **config)``: a tiny causal language model."""
    return _parts().make_decoder


@pytest.fixture
def make_encoder() -> Callable[..., Any]:
    """``make_encoder(family, vocab_size, seed=1, **config)``: a tiny text encoder."""
    return _parts().make_encoder


def _parts() -> Any:
    import tiny_models

    return tiny_models
