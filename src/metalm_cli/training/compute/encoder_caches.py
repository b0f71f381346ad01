"""Which frozen encoders of a run have their outputs cached, decided by a measurement at its start."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from metalm_cli.common.cache import cache_folder
from metalm_cli.errors import MetalmError
from metalm_cli.inference.evaluation_mode import evaluation_mode
from metalm_cli.models.dual_encoder.docked_encoders import DockedEncoders
from metalm_cli.models.encoder_cache.cached_encoder import FOLDER, CachedEncoder
from metalm_cli.models.encoder_cache.output_store import SPARE_SHARE, OutputStore
from metalm_cli.sessions.batch import dock_table
from metalm_cli.sessions.processors import DockInput

if TYPE_CHECKING:
    from metalm_cli.runs.folder import RunFolder
    from metalm_cli.training.run import Run

CHOICES_FILE = "cached_encoders.json"
"""File of a run folder with the choice for each frozen encoder, which a resumed run keeps: it decides the last bits."""
SAMPLE = 16
"""Contents that are measured; fewer if they have more than :data:`SAMPLE_POSITIONS` positions."""
SAMPLE_POSITIONS = 4096
MIN_ENCODE_MS = 1.0
"""Time to encode a dock below which nothing is cached: the measurement is then of little use."""
MIN_GAIN = 1.25
"""Gain of the encoding time of the run from which outputs are cached."""


@dataclass(frozen=True)
class RepeatedDocks:
    """Docks of a run.

    Args:
        sample: A sample of them.
        distinct: Number of docks in the rows of the run, each row counted once.
        reads: How many times the run reads each of them.
    """

    sample: Sequence[DockInput] = ()
    distinct: float = 0.0
    reads: float = 0.0


@dataclass(frozen=True)
class Measurement:
    """Times of a sample of docks, in milliseconds each.

    Args:
        encode_ms: Encoded together, as without a cache.
        alone_ms: Encoded alone, as for the cache.
        write_ms: Written to the cache.
        read_ms: Read from it, from the disk where the system allows this.
        bytes: Bytes of a dock.
        cached: Share of the sample that the cache has already.
        docks: Number of docks.
    """

    encode_ms: float
    alone_ms: float
    write_ms: float
    read_ms: float
    bytes: float
    cached: float
    docks: int

    def gain(self, reads: float) -> float:
        """Encoding time of a run without the cache, divided by that with it.

        Args:
            reads: How many times the run reads each dock, at least once.
        """
        missing = 1 - self.cached
        with_cache = missing * (self.alone_ms + self.write_ms) + (reads - missing) * self.read_ms
        return reads * self.encode_ms / max(with_cache, 1e-9)


@dataclass(frozen=True)
class CacheChoice:
    """Whether the outputs of an encoder are cached.

    Args:
        encoder: Name of the encoder.
        is_cached: The choice.
        why: The reason.
        measured: The measurement; None if nothing was measured.
    """

    encoder: str
    is_cached: bool
    why: str
    measured: Measurement | None = field(default=None)

    def __str__(self) -> str:
        figures = ""
        if self.measured is not None:
            measured = self.measured
            figures = f"; {measured.encode_ms:.3g} ms to encode a dock, {measured.read_ms:.3g} ms to read one"
        return f"outputs of encoder {self.encoder} are {'' if self.is_cached else 'not '}cached: {self.why}{figures}"


# -- the choice -------------------------------------------------------------------------------------------------------


def choose(run: Run, folder: RunFolder | None) -> dict[str, CacheChoice]:
    """Choose the frozen encoders whose outputs are cached; those of a resumed run are what they were.

    Args:
        run: The run, with its model on the training device.
        folder: Folder of the run to resume.

    Returns:
        Choice for each frozen encoder that was considered.

    Raises:
        MetalmError: ``train.cache_encoders`` is on, and no encoder of the model can be cached.
    """
    mode, model = run.recipe.train.cache_encoders, run.assembly.model
    encoders: dict[str, Any] = dict(model.encoders.items()) if isinstance(model, DockedEncoders) else {}
    frozen = [name for name, part in encoders.items() if not any(weight.requires_grad for weight in part.parameters())]
    if mode == "on":
        _check_can_be_cached(encoders, frozen, run.shards)
    if mode == "off" or not frozen or run.shards > 1:
        return {}
    if folder is not None and (folder.path / CHOICES_FILE).exists():
        return _saved_choices(folder)
    docks = run.repeated_docks()
    choices = {name: _choose(run, name, docks) for name in frozen}
    return {name: choice for name, choice in choices.items() if choice is not None}


def _check_can_be_cached(encoders: Mapping[str, Any], frozen: Sequence[str], shards: int) -> None:
    why = ""
    if not encoders:
        why = "the model docks into no encoder"
    elif not frozen:
        why = f"every encoder trains: {', '.join(encoders)}"
    elif shards > 1:
        why = f"the model is sharded over {shards} processes, which must run equally many passes"
    if why:
        raise MetalmError(
            "no outputs of encoders can be cached",
            where="train.cache_encoders: on",
            why=why,
            remedy="set it to auto or off, or freeze an encoder (model.encoders.NAME.trains=none)",
        )


def _choose(run: Run, name: str, docks: RepeatedDocks) -> CacheChoice | None:
    """Choose for an encoder; None if nothing suggests a cache."""
    train = run.recipe.train
    is_on = train.cache_encoders == "on"
    sample = _measured_docks([dock for dock in docks.sample if dock.encoder == name])
    if not sample:
        return CacheChoice(name, True, "train.cache_encoders is on") if is_on else None
    measured = _measure(run, name, sample)
    if is_on:
        return CacheChoice(name, True, "train.cache_encoders is on", measured)
    share = sum(dock.encoder == name for dock in docks.sample) / len(docks.sample)
    needed, usable = measured.bytes * docks.distinct * share, train.encoder_cache_gb * 1e9 * (1 - SPARE_SHARE)
    reads = max(1.0, docks.reads)
    gain = measured.gain(reads)
    times = f"{measured.docks} docks measured, each read about {reads:.3g} times"
    if measured.cached:
        times += f", {measured.cached:.0%} of them in the cache"
    if measured.write_ms == float("inf"):
        return CacheChoice(name, False, f"{cache_folder() / FOLDER} cannot be written", measured)
    if measured.encode_ms < MIN_ENCODE_MS:
        return CacheChoice(name, False, f"the encoder is fast ({times})", measured)
    if gain < MIN_GAIN:
        return CacheChoice(name, False, f"this would save little time ({times})", measured)
    if needed > usable:
        why = f"they take about {needed / 1e9:.3g} GB, train.encoder_cache_gb has room for {usable / 1e9:.3g}"
        return CacheChoice(name, False, why, measured)
    why = f"this makes the encoder's work about {gain:.2g} times as fast ({times}, {needed / 1e6:,.0f} MB)"
    return CacheChoice(name, True, why, measured)


def _measured_docks(docks: Sequence[DockInput]) -> list[DockInput]:
    """Return the first distinct docks, as many as are measured."""
    chosen: list[DockInput] = []
    positions = 0
    for dock in {dock.key: dock for dock in docks}.values():
        positions += sum(dock.cost.values())
        if len(chosen) == SAMPLE or (chosen and positions > SAMPLE_POSITIONS):
            break
        chosen.append(dock)
    return chosen


def _measure(run: Run, name: str, docks: Sequence[DockInput]) -> Measurement:
    """Measure the times of docks, in the mode and precision of the run; nothing is left in the cache."""
    model, processor = run.assembly.model, run.assembly.processors[name]
    device = next(model.encoders[name].parameters()).device
    table = dock_table([(0, dock) for dock in docks], processor).to(device)
    root = cache_folder() / FOLDER
    with ExitStack() as stack:
        stack.enter_context(evaluation_mode(model.encoders[name]))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.autocast(device.type, torch.bfloat16, enabled=run.recipe.train.precision == "bf16"))
        cached = make_cached_encoder(run, name)
        known = sum(map(cached.contains, docks)) / len(docks)
        together = _seconds(lambda: model.encoder_outputs(name, table), device, repeats=2)
        outputs: list[torch.Tensor] = []
        alone = _seconds(lambda: outputs.extend(map(cached.encode, docks)), device)
        write, read = _disk_seconds(root, outputs[: len(docks)])
    size = sum(tensor.numel() * tensor.element_size() for tensor in outputs) / len(docks)
    encode_ms, alone_ms, write_ms, read_ms = (s / len(docks) * 1e3 for s in (together, alone, write, read))
    return Measurement(encode_ms, alone_ms, write_ms, read_ms, size, known, len(docks))


def _seconds(function: Callable[[], Any], device: torch.device, repeats: int = 1) -> float:
    """Return the shortest time of a function."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)


def _disk_seconds(root: Path, tensors: Sequence[torch.Tensor]) -> tuple[float, float]:
    """Return the seconds to write and to read tensors in the folder of the cache; infinite if it cannot be written."""
    cpu = torch.device("cpu")
    try:
        root.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".measured.tmp-", dir=root))
    except OSError:
        return float("inf"), float("inf")
    try:
        store = OutputStore(folder, "measured", max_bytes=1 << 40)
        keys = [f"{index:064x}" for index in range(len(tensors))]
        write = _seconds(lambda: deque(map(store.put, keys, tensors), maxlen=0), cpu)
        store.drop_from_memory()
        return (float("inf") if store.problem else write), _seconds(lambda: list(map(store.get, keys)), cpu)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _save_choices(folder: RunFolder, choices: Mapping[str, CacheChoice]) -> None:
    if not (folder.path / CHOICES_FILE).exists():
        saved = {name: asdict(replace(choice, why=str(choice))) for name, choice in choices.items()}
        folder.write_json(CHOICES_FILE, saved)


def _saved_choices(folder: RunFolder) -> dict[str, CacheChoice]:
    """Read the choices of a run folder.

    Raises:
        MetalmError: The file is damaged.
    """
    remedy = "remove the file, so that the choice is made again"
    saved = folder.read_json(CHOICES_FILE, "the choice of cached encoders cannot be read", remedy) or {}
    try:
        return {
            name: CacheChoice(name, bool(choice["is_cached"]), "as when the run started")
            for name, choice in saved.items()
        }
    except (TypeError, KeyError) as error:
        raise MetalmError(
            "the choice of cached encoders cannot be read",
            where=str(folder.path / CHOICES_FILE),
            why=f"{type(error).__name__}: {error}",
            remedy=remedy,
        ) from error


# -- while a run trains -----------------------------------------------------------------------------------------------


def make_cached_encoder(run: Run, name: str) -> CachedEncoder:
    """Make the cache of an encoder of a run, whose weights are those that it trains with."""
    model, train = run.assembly.model, run.recipe.train
    return CachedEncoder(
        name,
        model.encoders[name],
        model.encoder_ios[name],
        run.assembly.processors[name],
        int(train.encoder_cache_gb * 1e9),
        autocast=torch.bfloat16 if train.precision == "bf16" else None,
        compiled=train.compile,
    )


@contextmanager
def hold(run: Run, folder: RunFolder, note: Callable[[str], None]) -> Iterator[None]:
    """Context manager of the training loop, in which the chosen encoders have their caches.

    Args:
        run: The run, whose frozen parts are in evaluation mode.
        folder: Its folder, in which the choices are saved.
        note: Prints a line.

    Raises:
        MetalmError: An encoder is in training mode.
    """
    choices, model = run.cached_encoders, run.assembly.model
    if not choices:
        yield
        return
    run.collectives.on_rank_zero(lambda: _save_choices(folder, choices))
    cached = {name: make_cached_encoder(run, name) for name, choice in choices.items() if choice.is_cached}
    model.cached_encoders = cached
    try:
        yield
    finally:
        model.cached_encoders = {}
        for name, encoder in cached.items():
            if run.is_main and (encoder.read or encoder.encoded):
                note(_summary(name, encoder))


def _summary(name: str, encoder: CachedEncoder) -> str:
    text = f"encoder {name}: {encoder.read:,} contents read from the cache, {encoder.encoded:,} encoded"
    if encoder.store.damaged:
        text += f", {encoder.store.damaged:,} damaged entries replaced"
    return text + (f"; nothing more was written: {encoder.store.problem}" if encoder.store.problem else "")
