"""Tests of the shared fixtures: blocked network, one thread."""

from __future__ import annotations

import os
import socket
import urllib.request

import pytest
import torch


def test_the_network_is_blocked_but_loopback():
    with pytest.raises(RuntimeError, match="only use the loopback network"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(RuntimeError, match="only use the loopback network"):
        urllib.request.urlopen("http://example.invalid/", timeout=1)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), timeout=5):
        pass


def test_one_thread():
    assert torch.get_num_threads() == 1
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
