"""Documents depend on the seed and the index only, are generated fast, and vary."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import subprocess
import sys
import time
import zlib
from collections import Counter

import pytest

from metalm_cli.errors import MetalmError
from metalm_cli.miniworld import miniworld_documents
from metalm_cli.miniworld.documents.render import DOCUMENT_KINDS, MIN_WORDS

FIRST_HUNDRED = "b3fc7fc8dac6b9a48c4302199f90bb69b4a39e5e63613f7d9012d7806b83b523"
"""sha256 of the first 100 documents of seed 0; a changed phrase changes it, and the results of all runs."""

DIGEST = (
    "import hashlib\n"
    "from metalm_cli.miniworld import miniworld_documents\n"
    "rows = miniworld_documents({count})\n"
    "order = {order}\n"
    "texts = dict((i, rows[i]['text']) for i in order)\n"
    "print(hashlib.sha256('\\x00'.join(texts[i] for i in range(100)).encode()).hexdigest())"
)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [row["text"] for row in miniworld_documents(5000)]


def digest(texts: list[str]) -> str:
    return hashlib.sha256("\x00".join(texts).encode()).hexdigest()


def test_first_hundred_documents_stay_as_they_are(texts):
    assert digest(texts[:100]) == FIRST_HUNDRED


@pytest.mark.parametrize(("hash_seed", "order"), [("1", "range(100)"), ("77", "reversed(range(100))")])
def test_other_processes_read_the_same_rows_in_any_order(hash_seed, order, texts):
    code = DIGEST.format(count=10**9, order=order)
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == digest(texts[:100])


def test_generating_needs_no_heavy_import():
    code = (
        "import sys; from metalm_cli.miniworld import miniworld_documents; miniworld_documents(3)[2]; "
        "print([name for name in ('torch', 'transformers', 'numpy', 'datasets', 'pydantic') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_rows_have_the_form_of_the_pile():
    rows = miniworld_documents(20, seed=2)
    assert len(rows) == 20
    assert set(rows[0]) == {"text", "meta"}
    assert rows[0]["meta"]["pile_set_name"] == "World"
    assert rows[0]["meta"]["kind"] in DOCUMENT_KINDS
    assert rows[-1] == rows[19]
    assert rows[3:6] == [rows[3], rows[4], rows[5]]
    assert list(rows) == rows[:]
    for outside in (20, -21):
        with pytest.raises(IndexError, match="of 20"):
            rows[outside]


def test_rows_depend_on_seed_and_index_alone():
    assert miniworld_documents(10)[:] == miniworld_documents(10_000)[:10]
    assert not {row["text"] for row in miniworld_documents(200, seed=0)} & {
        row["text"] for row in miniworld_documents(200, seed=1)
    }


def test_copies_carry_count_and_seed_only():
    rows = miniworld_documents(1_000_000, seed=4)
    packed = pickle.dumps(rows)
    assert len(packed) < 200
    copy = pickle.loads(packed)
    assert len(copy) == len(rows)
    assert copy[999_999] == rows[999_999]


@pytest.mark.parametrize(("count", "seed"), [(0, 0), (-3, 0), (2.0, 0), (True, 0), (5, -1), (5, "a")])
def test_errors_name_bad_arguments(count, seed):
    with pytest.raises(MetalmError) as caught:
        miniworld_documents(count, seed)
    assert repr(count if seed == 0 else seed) in caught.value.why


def test_lengths_have_a_long_tail(texts):
    lengths = sorted(len(text.split()) for text in texts)
    assert lengths[0] >= MIN_WORDS - 5
    assert 55 <= lengths[len(lengths) // 2] <= 110
    assert 180 <= lengths[int(0.95 * len(lengths))] <= 400
    assert 400 <= lengths[-1] <= 1200


def test_frequency_of_every_kind_matches_its_weight():
    kinds = Counter(row["meta"]["kind"] for row in miniworld_documents(5000))
    weights = sum(weight for _, weight in DOCUMENT_KINDS.values())
    for kind, (_, weight) in DOCUMENT_KINDS.items():
        assert 0.75 < kinds[kind] / 5000 / (weight / weights) < 1.3, kind


def test_vocabulary_is_small_and_used(texts):
    counts = Counter(word for text in texts for word in re.findall(r"[a-z]+", text.lower()))
    assert 600 <= len(counts) <= 1200
    assert sum(count >= 10 for count in counts.values()) > 0.9 * len(counts)


def test_text_compresses_like_simple_prose_not_like_repeats(texts):
    corpus = "\n".join(texts[:1000]).encode()
    assert 0.12 < len(zlib.compress(corpus, 9)) / len(corpus) < 0.35
    ratios = sorted(len(zlib.compress(text.encode(), 9)) / len(text.encode()) for text in texts)
    assert ratios[len(ratios) // 20] > 0.2


def test_no_sentence_dominates_and_no_document_repeats(texts):
    assert len(set(texts)) > 0.995 * len(texts)
    sentences = Counter(
        sentence for text in texts for sentence in re.split(r"(?<=[.?!])\s+", text) if len(sentence.split()) > 3
    )
    total = sum(sentences.values())
    assert sentences.most_common(1)[0][1] < 0.005 * total
    assert sum(count for _, count in sentences.most_common(100)) < 0.2 * total
    assert len(sentences) > 0.2 * total
    heads = Counter(" ".join(text.split()[:12]) for text in texts)
    assert heads.most_common(1)[0][1] < 0.03 * len(texts)


def test_it_is_fast_enough_to_feed_training():
    rows = miniworld_documents(10_000)
    rows[0]
    best_rate = 0.0
    for start in range(0, 3000, 500):
        start_time = time.process_time()
        for index in range(start, start + 500):
            rows[index]
        best_rate = max(best_rate, 500 / (time.process_time() - start_time))
    assert best_rate >= 5000, f"{best_rate:.0f} documents a second"
