"""The loader: the same rows and states for any number of workers, and from any step on."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from metalm_cli.config.schema.data import Data
from metalm_cli.config.schema.objectives import SemiCausal
from metalm_cli.data import open_corpus
from metalm_cli.data.documents.session_rows import SessionWriter
from metalm_cli.data.sampling.lanes import RowSlot, SlotState
from metalm_cli.data.sampling.loader import StepRowDataset, StepRows, loader
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.objectives.language import span_drawer_of
from metalm_cli.sessions import DecoderTokenizer, TextProcessor, TokenRules
from row_fixtures import Shelf, same_rows
from tiny_models import texts, tokenizer_of

LANES = 4


def writer() -> SessionWriter:
    draw = span_drawer_of(SemiCausal(name="semi_causal", span_length=[4, 8], span_fraction=0.3))
    decoder = DecoderTokenizer(tokenizer_of("byte"), TokenRules())
    return SessionWriter(decoder, TextProcessor("text", tokenizer_of("wordpiece"), 40), draw, 48)


def shelf_stream(lanes: list[int], states: dict[int, SlotState] | None = None, count: int = LANES) -> StepRowDataset:
    shelf = Shelf([*texts()[:9], None])
    made = writer()
    return StepRowDataset(
        lanes, lambda index, owned: RowSlot(index, count, shelf, made, None if states is None else states[index])
    )


def same_steps(left: list[StepRows], right: list[StepRows]) -> None:
    assert len(left) == len(right)
    for one, two in zip(left, right, strict=True):
        assert one.states == two.states
        assert list(one.states) == list(two.states)
        same_rows(one.rows, two.rows)


@pytest.fixture(scope="module")
def alone() -> list[StepRows]:
    return list(islice(loader(shelf_stream([0, 1, 2, 3]), 0), 6))


@pytest.mark.parametrize("workers", [1, 2, 3, 9])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_any_number_of_workers_gives_the_same_rows_and_states(alone, workers):
    same_steps(list(islice(loader(shelf_stream([0, 1, 2, 3]), workers), 6)), alone)


def test_a_step_holds_one_row_of_each_lane_in_order(alone):
    for step in alone:
        assert list(step.states) == [0, 1, 2, 3]
        assert [row.numbers[0] % LANES for row in step.rows] == [0, 1, 2, 3]
    assert alone[0].states != alone[1].states


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("after", [1, 4])
def test_a_loader_restarted_from_its_states_goes_on_alike(alone, workers, after):
    again = loader(shelf_stream([0, 1, 2, 3], alone[after - 1].states), workers)
    same_steps(list(islice(again, 6 - after)), alone[after:])


def test_two_processes_read_what_one_reads(alone):
    parts = [list(islice(loader(shelf_stream([rank, rank + 2]), 0), 6)) for rank in range(2)]
    for at, step in enumerate(alone):
        same_rows([parts[index % 2][at].rows[index // 2] for index in range(LANES)], step.rows)


def test_more_or_fewer_lanes_than_workers():
    one = list(islice(loader(shelf_stream([0], count=1), 0), 3))
    same_steps(list(islice(loader(shelf_stream([0], count=1), 4), 3)), one)


# -- on a real corpus -------------------------------------------------------------------------------------------------


def corpus_stream(data: Data, cache: Path, states: dict[int, SlotState] | None = None) -> StepRowDataset:
    corpus = open_corpus(data, seed=3, cache=cache)

    def make_lane(index: int, owned: frozenset[int]) -> RowSlot:
        reader = corpus.reader(lambda number: number % LANES in owned)
        return RowSlot(index, LANES, reader, writer(), None if states is None else states[index])

    return StepRowDataset(list(range(LANES)), make_lane)


@pytest.fixture(params=["world", "table", "stream"])
def data(request, tmp_path) -> Data:
    if request.param == "world":
        source = {"name": "world", "world": {"documents": 60}}
    else:
        lines = [json.dumps({"text": text if at % 7 else " \n"}) for at, text in enumerate(texts()[:80])]
        (tmp_path / "notes.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        source = {"name": "notes", "path": str(tmp_path / "notes.jsonl"), "streaming": request.param == "stream"}
    return Data(sources=[source], validation={"documents": 2, "hold_out_every": 9}, sequence_length=48)


def test_a_corpus_is_read_alike_by_any_number_of_workers_and_from_any_step(data, tmp_path):
    alone = list(islice(loader(corpus_stream(data, tmp_path), 0), 5))
    same_steps(list(islice(loader(corpus_stream(data, tmp_path), 2), 5)), alone)
    for workers in (0, 2):
        again = loader(corpus_stream(data, tmp_path, alone[2].states), workers)
        same_steps(list(islice(again, 2)), alone[3:])
    read = {number for step in alone for row in step.rows for number in row.numbers}
    assert len(read) > LANES


@pytest.mark.parametrize("data", ["table"], indirect=True)
def test_workers_that_start_afresh_read_alike(data, tmp_path):
    from metalm_cli.data.documents.document_lanes import RowSlotFactory

    def stream() -> StepRowDataset:
        return StepRowDataset(
            list(range(LANES)), RowSlotFactory(open_corpus(data, seed=3, cache=tmp_path), writer(), LANES)
        )

    alone = list(islice(loader(stream(), 0), 3))
    same_steps(list(islice(loader(stream(), 1, "spawn"), 3)), alone)


# -- failures ---------------------------------------------------------------------------------------------------------


class Broken(Shelf):
    def get(self, number: int):
        if number >= 8:
            raise MetalmError("a row is broken", where="notes.jsonl:9", remedy="mend it", exit_code=Exit.FAILED)
        return super().get(number)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_row_is_one_message_from_any_process(workers):
    shelf, made = Broken(["A dog."]), writer()
    stream = StepRowDataset([0, 1, 2, 3], lambda index, owned: RowSlot(index, LANES, shelf, made))
    with pytest.raises(MetalmError) as caught:
        list(islice(loader(stream, workers), 50))
    assert str(caught.value) == "a row is broken\n  where: notes.jsonl:9\n  remedy: mend it"
    assert caught.value.exit_code == Exit.FAILED


ABANDONED = """
import sys
sys.path[:0] = {paths}
from test_loader import loader, shelf_stream
steps = loader(shelf_stream([0, 1, 2, 3]), 2)
next(steps)
sys.exit(3)
"""


def test_a_program_that_ends_with_its_workers_alive_does_not_wait_for_them():
    here = Path(__file__).parent
    code = ABANDONED.format(paths=[str(here), str(here.parent)])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
