"""Documents by number: shares, filters, validation, streams, and any number of readers."""

import pickle
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metalm_cli.config.schema.data import MiniworldSource
from metalm_cli.data.sources import streaming
from metalm_cli.data.sources.jsonl import JsonlTable
from metalm_cli.data.sources.row_filter import text_hash
from metalm_cli.data.sources.row_tables import MiniworldDocumentRows
from metalm_cli.data.sources.streaming import DocumentBuffer

ROWS = [{"text": f"row {number}", "meta": {"set": "abc"[number % 3]}} for number in range(100)]


class OwnedSlots:
    """Owns the row slots with ``slot % readers == reader``, from the number after ``last_read``."""

    def __init__(self, batch: int, readers: int, reader: int, last_read: int = -1) -> None:
        self.batch, self.readers, self.reader, self.last_read = batch, readers, reader, last_read

    def __call__(self, number: int) -> bool:
        return number > self.last_read and number % self.batch % self.readers == self.reader


def test_a_table_gives_each_row_once_an_epoch(write, corpus, read):
    source_corpus = corpus({"path": str(write("a.jsonl.gz", ROWS))})
    texts = read(source_corpus, 200)
    assert sorted(texts[:100]) == sorted(texts[100:]) == sorted(row["text"] for row in ROWS)
    assert texts[:100] != texts[100:]
    planned = source_corpus.planned_row(130)
    assert source_corpus.reader(bool).get(130).text == ROWS[planned.row]["text"]
    assert (planned.epoch, planned.draw) == (1, 130)
    assert source_corpus.where(130).endswith(f"a.jsonl.gz:{planned.row + 1}")


def test_excluded_empty_and_held_out_rows_have_no_number(write, corpus):
    rows = [*ROWS, {"text": " \n\t"}, {"text": ""}]
    held_out = {row["text"] for row in ROWS if row["meta"]["set"] != "b" and text_hash(row["text"]) % 5 == 0}
    opened = corpus(
        {"path": str(write("a.jsonl", rows)), "exclude": {"meta.set": ["b"]}},
        validation={"documents": 1000, "hold_out_every": 5},
    )
    (info,) = opened.sources
    usable = {row["text"] for row in ROWS if row["meta"]["set"] != "b"} - held_out
    assert held_out
    assert (info.rows, info.usable) == (102, len(usable))
    assert info.left_out == {"excluded": 33, "empty": 2, "validation": len(held_out)}
    assert info.text_bytes == sum(len(text) for text in usable)
    reader = opened.reader(bool)
    documents = [reader.get(number) for number in range(2 * len(usable))]
    for epoch in (documents[: len(usable)], documents[len(usable) :]):
        assert sorted(document.text for document in epoch) == sorted(usable)
    assert all(document.text == rows[document.row]["text"] for document in documents)
    assert [opened.planned_row(number).row for number in range(9)] == [document.row for document in documents[:9]]
    assert {document.text for document in opened.validation()} == held_out


def test_weights_are_shares_of_documents_where_rows_are_left_out(write, corpus):
    """Two sources of equal weight, a tenth of whose rows, and all, can be drawn; without weights 1 to 10."""
    few = write("few.jsonl", [{"text": f"few {n}", "lang": "de" if n % 10 else "en"} for n in range(500)])
    many = write("many.jsonl", [{"text": f"many {n}", "lang": "en"} for n in range(500)])
    for streams in (False, True):
        for weights, share in ([1, 1], 1 / 2), ([None, None], 1 / 11):
            sources = [
                {
                    "path": str(path),
                    "weight": weight,
                    "exclude": {"lang": ["de"]},
                    "streaming": streams and path == few,
                }
                for path, weight in zip((few, many), weights, strict=True)
            ]
            if streams and weights[0] is None:
                continue
            opened = corpus(*sources)
            reader, count = opened.reader(bool), opened.plan.block_size
            documents = [reader.get(number) for number in range(count)]
            assert sum(document.source == "s0" for document in documents) == round(share * count)
            assert opened.sources[0].share == share
            texts = Counter(document.text for document in documents if document.source == "s0")
            assert len(texts) == 50
            assert max(texts.values()) - min(texts.values()) <= 1, "each usable row once an epoch"


def test_the_row_behind_a_block_of_excluded_rows_is_drawn_like_the_others(write, corpus):
    rows = [{"text": f"row {n}", "kind": "labelled" if n < 100 or n >= 19_950 else "not yet"} for n in range(20_000)]
    path = write("a.jsonl", rows)
    for streams in (False, True):
        opened = corpus({"path": str(path), "exclude": {"kind": ["not yet"]}, "streaming": streams})
        reader = opened.reader(bool)
        texts = Counter(reader.get(number).text for number in range(300))
        assert set(texts.values()) == {2}, "two epochs of 150 rows"


def test_a_stream_whose_first_rows_are_left_out(write, corpus, read):
    rows = [{"text": f"row {n}", "set": "a" if n < 9000 else "b"} for n in range(9200)]
    source = {"path": str(write("a.jsonl.gz", rows)), "streaming": True, "exclude": {"set": ["a"]}}
    opened = corpus(source, validation={"documents": 5, "hold_out_every": 10})
    held_out = [row["text"] for row in rows[9000:] if text_hash(row["text"]) % 10 == 0]
    assert [document.text for document in opened.validation()] == held_out[:5]
    usable = {row["text"] for row in rows[9000:]} - set(held_out)
    assert Counter(read(opened, 2 * len(usable))) == dict.fromkeys(usable, 2)


def test_the_pass_over_the_rows_is_cached(write, corpus, tmp_path, monkeypatch, read):
    path = write("a.jsonl", [*ROWS, {"text": ""}])
    source = {"path": str(path), "exclude": {"meta.set": ["a"]}}
    expected = read(corpus(source), 100)
    assert len(list((tmp_path / "cache" / "usable").glob("*.json"))) == 1
    rows_read: list[range] = []
    monkeypatch.setattr(JsonlTable, "scan", lambda table, rows: rows_read.append(rows) or map(table.load, rows))
    again = corpus(source)
    assert read(again, 100) == read(pickle.loads(pickle.dumps(again)), 100) == expected
    assert (again.sources[0].usable, again.sources[0].left_out) == (66, {"excluded": 34, "empty": 1})
    assert not rows_read, "nothing has changed"
    (file,) = (tmp_path / "cache" / "usable").glob("*.rows")
    file.write_bytes(file.read_bytes()[:-8])
    assert read(corpus(source), 100) == expected
    assert len(rows_read) == 1, "the result in the cache is incomplete"
    assert corpus({**source, "exclude": {"meta.set": ["b"]}}).sources[0].usable == 67
    write("a.jsonl", ROWS[1:])
    assert corpus(source).sources[0].usable == 66
    assert len(rows_read) == 3, "the filter and the rows have changed"


def test_validation_takes_the_first_held_out_of_each_source(write, corpus):
    first, second = write("a.jsonl", ROWS), write("b.jsonl", [{"text": f"b{n}"} for n in range(50)])
    opened = corpus({"path": str(first)}, {"path": str(second)}, validation={"documents": 3, "hold_out_every": 4})
    expected = [row["text"] for row in ROWS if text_hash(row["text"]) % 4 == 0][:3]
    documents = opened.validation()
    assert [document.text for document in documents if document.source == "s0"] == expected
    assert sum(document.source == "s1" for document in documents) == 3
    assert {document.number for document in documents} == {-1}


def test_validation_sources_of_their_own_hold_nothing_out(write, corpus, read):
    validation_source = {
        "name": "v",
        "path": str(write("v.jsonl.gz", [{"text": " "}, *({"text": f"v{n}"} for n in range(9))])),
    }
    opened = corpus(
        {"path": str(write("a.jsonl", ROWS))},
        validation={"documents": 4, "hold_out_every": 2, "sources": [validation_source]},
    )
    assert sorted(read(opened, 100)) == sorted(row["text"] for row in ROWS)
    assert [document.text for document in opened.validation()] == ["v0", "v1", "v2", "v3"]
    assert [info.name for info in opened.validation_sources] == ["v"]


def test_weights_are_shares_of_documents(write, corpus):
    small, large = str(write("a.jsonl", ROWS[:10])), str(write("b.jsonl", ROWS))
    by_rows = corpus({"path": small}, {"path": large})
    assert [info.share for info in by_rows.sources] == pytest.approx([1 / 11, 10 / 11])
    by_weights = corpus({"path": small, "weight": 3}, {"path": large, "weight": 1})
    drawn = Counter(by_weights.planned_row(number).source for number in range(by_weights.plan.block_size))
    assert drawn[0] == 3 * drawn[1]


def mixed_corpus(write, corpus, seed=0):
    rows = [{"text": f"stream {n}" if n % 7 else " "} for n in range(900)]
    shards = [write(f"shards/{part}.jsonl{'.gz' if part else ''}", rows[part::3]) for part in range(3)]
    return corpus(
        {"path": str(shards[0].parent), "streaming": True, "weight": 2},
        {"path": str(write("t.jsonl", ROWS)), "weight": 1, "exclude": {"meta.set": ["a"]}},
        seed=seed,
        validation={"documents": 5, "hold_out_every": 10},
    )


@given(st.integers(1, 6), st.integers(1, 4), st.randoms(use_true_random=False))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_disjoint_readers_read_the_same_documents_as_a_single_reader(write, corpus, read, batch, readers, random):
    opened = mixed_corpus(write, corpus)
    count = 60 * batch
    expected = read(opened, count)
    texts: dict[int, str] = {}
    for index in range(readers):
        owns = OwnedSlots(batch, readers, index)
        reader = pickle.loads(pickle.dumps(opened.reader(owns)))
        slots = {slot: iter(range(slot, count, batch)) for slot in range(batch) if slot % readers == index}
        while slots:
            slot = random.choice(list(slots))
            number = next(slots[slot], None)
            if number is None:
                del slots[slot]
                continue
            texts[number] = reader.get(number).text
    assert [texts[number] for number in range(count)] == expected


def test_a_stream_gives_each_row_once_an_epoch_in_an_order_of_its_own(write, corpus, read, monkeypatch):
    monkeypatch.setattr(streaming, "SHUFFLE_BLOCK_ROWS", 64)
    paths = [write(f"s/{part}.jsonl", [{"text": f"{part} {n}"} for n in range(100)]) for part in range(4)]
    opened = corpus({"path": str(paths[0].parent), "streaming": True})
    texts = read(opened, 800)
    assert sorted(texts[:400]) == sorted(texts[400:]) == sorted(f"{p} {n}" for p in range(4) for n in range(100))
    assert texts[:400] != texts[400:]
    parts = [text.split()[0] for text in texts[:64]]
    assert len(set(parts)) == 1
    assert texts[:64] != sorted(texts[:64], key=lambda text: int(text.split()[1]))
    assert read(corpus({"path": str(paths[0].parent), "streaming": True}, seed=1), 400) != texts[:400]
    info = opened.sources[0]
    assert (info.rows, info.streamed, info.text_bytes) == (None, True, None)


def test_shards_and_blocks_have_another_order_each_epoch(write, corpus, read, monkeypatch):
    monkeypatch.setattr(streaming, "SHUFFLE_BLOCK_ROWS", 20)
    paths = [write(f"s/{part}.jsonl", [{"text": f"{part} {n}"} for n in range(20)]) for part in range(8)]
    texts = read(corpus({"path": str(paths[0].parent), "streaming": True}), 480)
    parts = [text.split()[0] for text in texts[::20]]
    assert [sorted(parts[start : start + 8]) for start in (0, 8, 16)] == [list("01234567")] * 3
    assert len({tuple(parts[start : start + 8]) for start in (0, 8, 16)}) == 3
    blocks = [[text.split()[1] for text in texts[start : start + 20]] for start in range(0, 480, 20)]
    assert len(set(map(tuple, blocks))) == 24
    alone = read(corpus({"path": str(paths[0]), "streaming": True}), 40)
    assert alone[:20] != alone[20:]


@pytest.mark.parametrize("start", [0, 1, 450, 4000])
def test_a_resumed_reader_continues_exactly(start, write, corpus, read):
    opened = mixed_corpus(write, corpus)
    expected = read(opened, start + 300)[start:]
    assert read(mixed_corpus(write, corpus), start + 300, start) == expected
    reader = opened.reader(OwnedSlots(1, 1, 0, last_read=start - 1))
    for number in range(start, start + 300):
        assert reader.get(number).text == expected[number - start]
    assert all(len(cursor._buffer) == 0 for cursor in reader._cursors.values())


def test_a_number_that_was_not_buffered_is_read_again(write, corpus, read):
    opened = mixed_corpus(write, corpus)
    expected = read(opened, 400)
    reader = opened.reader(OwnedSlots(1, 1, 1))
    assert [reader.get(number).text for number in (399, 10, 250)] == [expected[n] for n in (399, 10, 250)]


def test_the_buffer_writes_what_does_not_fit_in_memory_to_files(monkeypatch):
    monkeypatch.setattr(streaming, "MAX_MEMORY_BYTES", 1000)
    monkeypatch.setattr(streaming, "FILE_BYTES", 5000)
    buffer = DocumentBuffer()
    texts = {number: f"täxt {number} " * (number % 40) for number in range(500)}
    for number, text in texts.items():
        buffer.put(number, text)
    assert len(buffer._files) > 5
    for number in sorted(texts, key=lambda number: number * 7 % 500):
        assert number in buffer
        assert buffer.take(number) == texts[number]
        assert number not in buffer
    assert (len(buffer), buffer._memory_bytes, buffer._files, buffer._texts_in_file) == (0, 0, {}, {})


def test_the_sample_follows_the_shares_and_repeats_no_row(write, corpus):
    opened = corpus(
        {"path": str(write("a.jsonl", [{"text": f"a{n}"} for n in range(5)])), "weight": 1},
        {"path": str(write("b.jsonl", [{"text": f"b{n}"} for n in range(400)])), "weight": 1},
    )
    texts = list(opened.sample(300, 1))
    assert len(set(texts)) == len(texts) == 300
    assert sum(text.startswith("a") for text in texts) == 5
    assert texts != list(opened.sample(300, 2))
    assert texts == list(opened.sample(300, 1))
    assert len(list(opened.sample(10_000, 1))) == 405


def test_lone_surrogates_become_replacement_characters(write, corpus, read):
    opened = corpus({"path": str(write("a.jsonl", ['{"text": "a\\ud800b \\ud83d\\ude00"}']))})
    assert read(opened, 1) == ["a\ufffdb \U0001f600"]


def test_the_fingerprint_changes_with_the_documents_and_their_order(write, corpus):
    path = write("a.jsonl", ROWS)
    source = {"path": str(path)}
    first = corpus(source).fingerprint
    assert corpus(source).fingerprint == first
    others = [
        corpus(source, seed=1),
        corpus(source | {"exclude": {"meta.set": ["a"]}}),
        corpus(source | {"streaming": True}),
        corpus(source, validation={"documents": 1, "hold_out_every": 3}),
    ]
    write("a.jsonl", ROWS[1:] + ROWS[:1])
    others.append(corpus(source))
    assert len({first, *(other.fingerprint for other in others)}) == 6


def test_world_documents_are_a_table(corpus, read):
    opened = corpus({"world": {"documents": 40, "seed": 5}})
    assert opened.sources[0].rows == 40
    identities = [
        MiniworldDocumentRows(MiniworldSource(documents=documents, seed=seed)).identity
        for documents, seed in ((40, 5), (40, 5), (41, 5), (40, 6))
    ]
    assert identities[0] == identities[1]
    assert identities[0] not in identities[2:]
    assert len(set(read(opened, 40))) > 30
    assert read(pickle.loads(pickle.dumps(opened)), 40) == read(opened, 40)


def test_real_data_reads_by_number(corpus, read, data_root):
    opened = corpus(
        {"path": "pile_sample/train", "exclude": {"meta.pile_set_name": ["Github"]}},
        validation={"documents": 20, "hold_out_every": 50},
        data_root=data_root,
    )
    (info,) = opened.sources
    assert info.rows > 1000
    assert len(info.files) == 4
    texts = read(opened, 300)
    assert len(set(texts)) > 290
    assert info.usable == info.rows - sum(info.left_out.values()) < info.rows
    assert not {document.text for document in opened.validation()} & set(texts)
