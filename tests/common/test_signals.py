"""Stop signals: the first requests a stop, a second Ctrl-C aborts; data loader workers ignore both."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from metalm_cli.common.signals import STOP_SIGNALS, StopSignals


@pytest.mark.parametrize("name", STOP_SIGNALS)
def test_the_first_signal_sets_a_flag_and_handlers_come_back(name: str) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopSignals() as stop:
        assert stop.pending is None
        os.kill(os.getpid(), getattr(signal, name))
        assert stop.pending == name
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.pending == name
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize("first", ["SIGINT", "SIGTERM"])
def test_a_second_interrupt_aborts_at_once(first: str) -> None:
    before = signal.getsignal(signal.SIGINT)
    reached = []

    def work() -> None:
        with StopSignals():
            os.kill(os.getpid(), getattr(signal, first))
            reached.append("after the first")
            os.kill(os.getpid(), signal.SIGINT)
            reached.append("after the second")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["after the first"]
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize("name", STOP_SIGNALS)
def test_at_once_the_first_signal_interrupts_except_where_it_is_deferred(name: str) -> None:
    number = getattr(signal, name)
    with StopSignals(at_once=True) as stop:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        assert stop.pending == name
        os.kill(os.getpid(), signal.SIGTERM)  # schedulers repeat signals
    with StopSignals(at_once=True) as stop:
        with stop.deferred():
            os.kill(os.getpid(), number)
        assert (stop.pending, stop.raised) == (name, False)


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGTERM"])
def test_a_signal_that_the_process_ignores_stays_ignored(name: str) -> None:
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), number)
        assert stop.pending is None
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_outside_the_main_thread_it_does_nothing() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work() -> None:
        with StopSignals() as stop:
            seen.append((stop.pending, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(None, before)]


LOADER = """
    import os, signal, sys
    from torch.utils.data import DataLoader
    from metalm_cli.data.sampling.loader import worker_init
    from metalm_cli.common.signals import StopSignals

    init = worker_init if sys.argv[2] == "ignore" else None
    with StopSignals() as stop:
        seen = 0
        for _ in DataLoader(range(200), num_workers=2, worker_init_fn=init, multiprocessing_context="fork"):
            seen += 1
            if seen == 20:
                os.killpg(0, getattr(signal, sys.argv[1]))
    print(stop.pending, seen)
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_signal_to_the_whole_group_spares_the_workers(name: str) -> None:
    command = [sys.executable, "-c", textwrap.dedent(LOADER), name, "ignore"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, start_new_session=True)
    assert done.stdout == f"{name} 200\n", done.stderr


def test_without_worker_init_the_signal_kills_the_workers() -> None:
    command = [sys.executable, "-c", textwrap.dedent(LOADER), "SIGTERM", "default"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, start_new_session=True)
    assert done.stdout != "SIGTERM 200\n"
