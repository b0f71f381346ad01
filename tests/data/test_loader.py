"""The loader: the same rows and states for any number of workers, and after a restart at any step."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from metalm_cli.config.schema.data import DataConfig
from metalm_cli.config.schema.objectives import SemiCausal
from metalm_cli.data import open_corpus
from metalm_cli.data.documents.session_rows import SessionWriter
from metalm_cli.data.sampling.loader import StepRowDataset, StepRows, loader
from metalm_cli.data.sampling.row_slots import RowSlot, SlotState
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.objectives.language import span_drawer_of
from metalm_cli.sessions import DecoderTokenizer, TextProcessor, TokenRules
from row_fixtures import Shelf, assert_same_rows
from shard_fixtures import write_shard
from tiny_models import texts, tokenizer_of

SLOTS = 4


def session_writer() -> SessionWriter:
    draw = span_drawer_of(SemiCausal(name="semi_causal", span_length=[4, 8], span_fraction=0.3))
    decoder = DecoderTokenizer(tokenizer_of("byte"), TokenRules())
    return SessionWriter(decoder, TextProcessor("text", tokenizer_of("wordpiece"), 40), draw, 48)


def shelf_dataset(
    slot_indices: list[int], states: dict[int, SlotState] | None = None, count: int = SLOTS
) -> StepRowDataset:
    shelf = Shelf(texts()[:10])
    writer = session_writer()
    return StepRowDataset(
        slot_indices,
        lambda index, owned: RowSlot(index, count, shelf, writer, None if states is None else states[index]),
    )


def assert_same_steps(left: list[StepRows], right: list[StepRows]) -> None:
    assert len(left) == len(right)
    for step, other in zip(left, right, strict=True):
        assert step.states == other.states
        assert list(step.states) == list(other.states)
        assert_same_rows(step.rows, other.rows)


@pytest.fixture(scope="module")
def expected_steps() -> list[StepRows]:
    return list(islice(loader(shelf_dataset([0, 1, 2, 3]), 0), 6))


@pytest.mark.parametrize("workers", [1, 2, 3, 9])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_any_number_of_workers_gives_the_same_rows_and_states(expected_steps, workers):
    assert_same_steps(list(islice(loader(shelf_dataset([0, 1, 2, 3]), workers), 6)), expected_steps)


def test_a_step_holds_one_row_of_each_slot_in_order(expected_steps):
    for step in expected_steps:
        assert list(step.states) == [0, 1, 2, 3]
        assert [row.numbers[0] % SLOTS for row in step.rows] == [0, 1, 2, 3]
    assert expected_steps[0].states != expected_steps[1].states


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("after", [1, 4])
def test_a_loader_restarted_from_its_states_gives_the_same_rows(expected_steps, workers, after):
    again = loader(shelf_dataset([0, 1, 2, 3], expected_steps[after - 1].states), workers)
    assert_same_steps(list(islice(again, 6 - after)), expected_steps[after:])


def test_two_processes_read_the_same_rows_as_a_single_process(expected_steps):
    parts = [list(islice(loader(shelf_dataset([rank, rank + 2]), 0), 6)) for rank in range(2)]
    for step_index, step in enumerate(expected_steps):
        assert_same_rows([parts[index % 2][step_index].rows[index // 2] for index in range(SLOTS)], step.rows)


def test_fewer_slots_than_workers():
    expected = list(islice(loader(shelf_dataset([0], count=1), 0), 3))
    assert_same_steps(list(islice(loader(shelf_dataset([0], count=1), 4), 3)), expected)


# -- on a real corpus -------------------------------------------------------------------------------------------------


def corpus_dataset(data: DataConfig, cache: Path, states: dict[int, SlotState] | None = None) -> StepRowDataset:
    corpus = open_corpus(data, seed=3, cache=cache)

    def make_slot(index: int, owned: frozenset[int]) -> RowSlot:
        reader = corpus.reader(lambda number: number % SLOTS in owned)
        return RowSlot(index, SLOTS, reader, session_writer(), None if states is None else states[index])

    return StepRowDataset(list(range(SLOTS)), make_slot)


@pytest.fixture(params=["world", "table", "stream", "shards"])
def data(request, tmp_path) -> DataConfig:
    if request.param == "world":
        source = {"name": "world", "world": {"documents": 60}}
    elif request.param == "shards":
        for shard in range(4):
            members = {f"{index}.txt": text for index, text in enumerate(texts()[20 * shard : 20 * shard + 20])}
            write_shard(tmp_path / f"{shard}.tar", members)
        source = {"name": "shards", "path": str(tmp_path / "{0..3}.tar"), "text": "txt"}
    else:
        lines = [json.dumps({"text": text if index % 7 else " \n"}) for index, text in enumerate(texts()[:80])]
        (tmp_path / "notes.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        source = {"name": "notes", "path": str(tmp_path / "notes.jsonl"), "streaming": request.param == "stream"}
    return DataConfig(sources=[source], validation={"documents": 2, "hold_out_every": 9}, sequence_length=48)


def test_a_corpus_is_read_alike_by_any_number_of_workers_and_from_any_step(data, tmp_path):
    expected = list(islice(loader(corpus_dataset(data, tmp_path), 0), 5))
    assert_same_steps(list(islice(loader(corpus_dataset(data, tmp_path), 2), 5)), expected)
    for workers in (0, 2):
        again = loader(corpus_dataset(data, tmp_path, expected[2].states), workers)
        assert_same_steps(list(islice(again, 2)), expected[3:])
    read = {number for step in expected for row in step.rows for number in row.numbers}
    assert len(read) > SLOTS


@pytest.mark.parametrize("data", ["table"], indirect=True)
def test_spawned_workers_read_the_same_rows(data, tmp_path):
    from metalm_cli.data.documents.document_slots import RowSlotFactory

    def dataset() -> StepRowDataset:
        return StepRowDataset(
            list(range(SLOTS)), RowSlotFactory(open_corpus(data, seed=3, cache=tmp_path), session_writer(), SLOTS)
        )

    expected = list(islice(loader(dataset(), 0), 3))
    assert_same_steps(list(islice(loader(dataset(), 1, "spawn"), 3)), expected)


# -- failures ---------------------------------------------------------------------------------------------------------


class BrokenShelf(Shelf):
    def get(self, number: int):
        if number >= 8:
            raise MetalmError("a row is broken", where="notes.jsonl:9", remedy="mend it", exit_code=Exit.FAILED)
        return super().get(number)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_row_is_one_message_from_any_process(workers):
    shelf, writer = BrokenShelf(["A dog."]), session_writer()
    dataset = StepRowDataset([0, 1, 2, 3], lambda index, owned: RowSlot(index, SLOTS, shelf, writer))
    with pytest.raises(MetalmError) as caught:
        list(islice(loader(dataset, workers), 50))
    assert str(caught.value) == "a row is broken\n  where: notes.jsonl:9\n  remedy: mend it"
    assert caught.value.exit_code == Exit.FAILED


ABANDONED = """
import sys
sys.path[:0] = {paths}
from test_loader import loader, shelf_dataset
steps = loader(shelf_dataset([0, 1, 2, 3]), 2)
next(steps)
sys.exit(3)
"""


def test_a_program_that_ends_with_its_workers_alive_does_not_wait_for_them():
    here = Path(__file__).parent
    code = ABANDONED.format(paths=[str(here), str(here.parent)])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
