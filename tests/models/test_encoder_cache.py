"""Cached outputs of frozen encoders: the bits of each content alone, whatever the cache contains or loses."""

from __future__ import annotations

import copy
import itertools
import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from metalm_cli.errors import MetalmError
from metalm_cli.models.encoder_cache.cached_encoder import CachedEncoder
from metalm_cli.models.encoder_cache.output_store import OutputStore
from metalm_cli.sessions.batch import dock_table
from model_families import noise_image
from tiny_language_models import DOCK_TEXT, tiny_language_model

TEXTS = ("It rained.", DOCK_TEXT, "Two.", "the dog barked at a girl and ran")


def write_forever(folder: Path) -> None:
    """Write the keys 0 to 49 in turn, each with its number as values."""
    store = OutputStore(folder, "section", 1_000_000)
    for number in itertools.cycle(range(50)):
        store.put(key(number), torch.full((200, 64), float(number)))


def key(number: int) -> str:
    return f"{number:064x}"


def store_at(folder: Path, max_bytes: int = 1 << 30) -> OutputStore:
    return OutputStore(folder, "section", max_bytes)


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix == ".safetensors")


# -- the store --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_written_is_read(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.randn(5, 3).to(dtype)
    store_at(tmp_path).put(key(1), tensor.T)  # not contiguous
    read = store_at(tmp_path).get(key(1))
    assert read is not None
    assert read.dtype == dtype
    assert torch.equal(read, tensor.T)
    assert store_at(tmp_path).get(key(2)) is None
    assert OutputStore(tmp_path, "other", 1 << 30).get(key(1)) is None


def test_a_damaged_entry_is_missing_and_written_again(tmp_path: Path) -> None:
    store, tensor = store_at(tmp_path), torch.randn(4, 3)
    store.put(key(1), tensor)
    (path,) = entries(tmp_path)
    content = path.read_bytes()
    damaged = [content[:size] for size in range(0, len(content), 7)]
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        damaged.append(bytes(changed))
    for number, data in enumerate(damaged):
        path.write_bytes(data)
        read = store.get(key(1))
        assert read is None or torch.equal(read, tensor), number  # spaces of the header may differ
    assert store.damaged > len(damaged) * 0.9
    store.put(key(1), tensor)
    assert path.read_bytes() == content


def test_an_entry_under_another_key_is_missing(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    store.put(key(1), torch.ones(2))
    (path,) = entries(tmp_path)
    path.rename(path.with_name(f"{key(2)}.safetensors"))
    assert store.get(key(2)) is None


def test_the_bound_removes_what_was_not_used_for_longest(tmp_path: Path) -> None:
    tensor = torch.zeros(256)  # 1,024 bytes, and a header
    old = store_at(tmp_path)
    for number in range(40):
        old.put(key(number), tensor)
    for number, path in enumerate(entries(tmp_path)):
        os.utime(path, (time.time() - 9000 + number,) * 2)
    assert old.get(key(3)) is not None  # which is a use
    size = sum(path.stat().st_size for path in entries(tmp_path))
    new = OutputStore(tmp_path, "other", size)
    for number in range(40, 60):
        new.put(key(number), tensor)
        assert sum(path.stat().st_size for path in entries(tmp_path)) <= size
    left = {int(path.stem, 16) for path in entries(tmp_path)}
    assert 3 in left
    assert left - {3} == set(range(min(left - {3}), 60)), "the oldest are gone, of all sections"


def test_nothing_is_kept_with_a_bound_of_zero(tmp_path: Path) -> None:
    store_at(tmp_path).put(key(1), torch.ones(2))
    empty = store_at(tmp_path, 0)
    empty.put(key(2), torch.ones(2))
    assert empty.get(key(1)) is None
    assert len(entries(tmp_path)) == 1


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    store = store_at(tmp_path / "file")
    store.put(key(1), torch.ones(2))
    assert "file" in store.problem
    assert store.get(key(1)) is None


def test_processes_that_are_killed_leave_only_whole_entries(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=write_forever, args=(tmp_path,)) for _ in range(2)]
    store, draw = store_at(tmp_path), random.Random(0)
    for process in processes:
        process.start()
    for process in processes:  # the other one goes on, and both are read meanwhile
        end = time.monotonic() + 0.2 + draw.random() / 5
        while time.monotonic() < end:
            number = draw.randrange(50)
            read = store.get(key(number))
            assert read is None or bool((read == number).all())
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert store.damaged == 0
    assert 0 < sum(path.stat().st_size for path in entries(tmp_path)) <= 1_000_000


def test_temporary_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    store_at(tmp_path).put(key(1), torch.ones(2))
    (path,) = entries(tmp_path)
    for name, age in (("old", 7200), ("new", 0)):
        left = path.parent / f".{name}.tmp-12ab"
        left.write_bytes(b"a part")
        os.utime(left, (time.time() - age,) * 2)
    store_at(tmp_path).put(key(2), torch.ones(2))
    assert [path.name for path in path.parent.glob(".*")] == [".new.tmp-12ab"]


# -- encoders ---------------------------------------------------------------------------------------------------------


def frozen_model(connector: dict[str, Any] | None = None) -> Any:
    language_model = tiny_language_model("gpt2", "text", "vision", connector=connector)
    language_model.model = copy.deepcopy(language_model.model)  # other tests have the same modules
    language_model.model.encoders.requires_grad_(False).eval()
    return language_model


def cached_encoder(language_model: Any, name: str, folder: Path, **settings: Any) -> CachedEncoder:
    model = language_model.model
    parts = model.encoders[name], model.encoder_ios[name], language_model.processors[name]
    return CachedEncoder(name, *parts, settings.pop("max_bytes", 1 << 30), folder=folder, **settings)


def contents(language_model: Any, name: str) -> list[Any]:
    values: Any = TEXTS if name == "text" else [noise_image(seed) for seed in range(3)]
    return [language_model.processors[name].prepare(value) for value in values]


@pytest.mark.parametrize("connector", [None, {"kind": "stack", "factor": 4}, {"kind": "queries", "length": 3}])
@pytest.mark.parametrize("name", ["text", "vision"])
def test_vectors_have_the_bits_of_each_content_alone(
    tmp_path: Path, name: str, connector: dict[str, Any] | None
) -> None:
    language_model = frozen_model(connector)
    model, processor = language_model.model, language_model.processors[name]
    docks = contents(language_model, name)
    table = dock_table([(9 * index, dock) for index, dock in enumerate([*docks, docks[0]])], processor)
    uncached = model.dock_vectors(name, table)
    alone = []
    for dock in docks:
        inputs = {key: torch.from_numpy(array)[None] for key, array in dock.arrays.items()}
        outputs = model.encoders[name](**inputs).last_hidden_state
        alone.append(outputs[0, torch.from_numpy(dock.output_positions)])
    for count, max_bytes in ((len(docks), 1 << 30), (0, 1 << 30), (len(docks), 0)):
        cached = cached_encoder(language_model, name, tmp_path, max_bytes=max_bytes)
        assert torch.equal(cached.outputs(table), torch.cat(alone))
        assert (cached.encoded, cached.read) == (count, len(docks) - count)
        model.cached_encoders = {name: cached}
        vectors = model.dock_vectors(name, table)
        assert torch.allclose(vectors, uncached, atol=1e-5)
    single = dock_table([(0, docks[1])], processor)
    first, last = docks[0].positions, docks[0].positions + docks[1].positions
    model.cached_encoders = {name: cached_encoder(language_model, name, tmp_path)}
    assert torch.allclose(model.dock_vectors(name, single), vectors[first:last], atol=1e-6)


def test_outputs_of_another_encoder_or_computation_are_not_read(tmp_path: Path) -> None:
    language_model = frozen_model()
    (dock, *_) = contents(language_model, "text")
    cached_encoder(language_model, "text", tmp_path).outputs_of(dock)
    same = cached_encoder(language_model, "text", tmp_path)
    assert same.contains(dock)
    assert not same.contains(replace(dock, output_positions=dock.output_positions[:-1]))
    assert not cached_encoder(language_model, "text", tmp_path, autocast=torch.bfloat16).contains(dock)
    encoder = language_model.model.encoders["text"]
    weight = next(encoder.parameters())
    original = weight.detach().clone()
    weight.data.view(-1)[7] += 1e-6
    other = cached_encoder(language_model, "text", tmp_path)
    weight.data.copy_(original)
    assert not other.contains(dock)
    encoder.config.layer_norm_eps *= 2
    other = cached_encoder(language_model, "text", tmp_path)
    encoder.config.layer_norm_eps /= 2
    assert not other.contains(dock)
    assert cached_encoder(language_model, "text", tmp_path).contains(dock)


def test_an_encoder_that_trains_or_has_dropout_is_refused_and_not_served(tmp_path: Path) -> None:
    language_model = frozen_model()
    encoder = language_model.model.encoders["text"]
    table = dock_table([(0, dock) for dock in contents(language_model, "text")], language_model.processors["text"])
    cached = cached_encoder(language_model, "text", tmp_path)
    assert cached.serves(table)
    with torch.autocast("cpu", torch.bfloat16):
        assert not cached.serves(table)
    dropout = next(module for module in encoder.modules() if isinstance(module, torch.nn.Dropout))
    weight = next(encoder.parameters())
    for change, undo in (
        (lambda: dropout.train(True), lambda: dropout.train(False)),
        (lambda: weight.requires_grad_(True), lambda: weight.requires_grad_(False)),
    ):
        change()
        assert not cached.serves(table)
        with pytest.raises(MetalmError, match="the outputs of encoder 'text' cannot be cached"):
            cached_encoder(language_model, "text", tmp_path)
        undo()
    assert cached.serves(table)
