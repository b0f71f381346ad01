"""Hub data sets: streaming, downloads, the cache, and error messages."""

import gzip
import json

import pytest

from hub_server import NO_SOCKETS, QUICK, HubServer

ROWS = [{"text": f"document {number} of the hub", "meta": {"part": number % 5}} for number in range(60)]
OPEN = """
import json, pickle, sys
from metalm_cli.data import open_corpus
from metalm_cli.errors import MetalmError
from metalm_cli.config.schema.data import DataConfig, DocumentSource
def corpus(offline=False, documents=0, **source):
    sources = [DocumentSource(name="docs", hub="me/docs", **source)]
    data = DataConfig(sources=sources, validation={"documents": documents, "hold_out_every": 4})
    try:
        return open_corpus(data, seed=3, offline=offline)
    except MetalmError as error:
        print(error); sys.exit(int(error.exit_code))
def texts(corpus, count, owns=bool):
    reader = pickle.loads(pickle.dumps(corpus.reader(owns)))
    return [document.text for document in map(reader.get, range(count))]
"""


def jsonl(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def hub():
    with HubServer() as server:
        files = {"train/0.jsonl": jsonl(ROWS[:40]), "train/1.jsonl.gz": gzip.compress(jsonl(ROWS[40:]))}
        server.add("datasets", "me/docs", files)
        yield server


def result(hub: HubServer, home, code: str, **environment: str):
    done = hub.run(OPEN + code, home, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def failure(hub: HubServer, home, code: str, before: str = "", **environment: str) -> str:
    done = hub.run(before + OPEN + code, home, **environment)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_streams_every_row_once_an_epoch_and_fixes_the_commit(hub, tmp_path):
    code = """
c = corpus(exclude={"meta.part": [3]})
info = c.sources[0]
print(json.dumps([texts(c, 96), info.rows, info.streamed, info.revision]))
"""
    texts, rows, streamed, revision = result(hub, tmp_path, code)
    assert (rows, streamed, revision) == (None, True, hub.repos["datasets", "me/docs"].commit)
    wanted = sorted(row["text"] for row in ROWS if row["meta"]["part"] != 3)
    for epoch in (texts[:48], texts[48:]):
        assert sorted(epoch) == wanted
    assert texts[:48] != texts[48:]
    paths = [request.path for request in hub.requests]
    assert any(f"/resolve/{revision}/" in path for path in paths)
    assert [path for path in paths if revision not in path] == ["/api/datasets/me/docs"]


def test_downloads_a_table_and_reads_it_offline_without_a_socket(hub, tmp_path):
    code = """
c = corpus(streaming=False)
held = corpus(streaming=False, documents=3)
print(json.dumps([c.sources[0].rows, c.sources[0].revision, texts(c, 60), len(held.validation())]))
"""
    rows, revision, texts, held = result(hub, tmp_path, code)
    assert (rows, revision, held) == (60, hub.repos["datasets", "me/docs"].commit, 3)
    assert sorted(texts) == sorted(row["text"] for row in ROWS)
    hub.requests.clear()
    offline = """
c = corpus(offline=True)
print(json.dumps([c.sources[0].rows, c.sources[0].revision, texts(c, 60)]))
"""
    assert result(hub, tmp_path, NO_SOCKETS + offline) == [rows, revision, texts]
    assert hub.requests == []
    message = failure(hub, tmp_path, f"corpus(offline=True, revision='{'a' * 40}')")
    assert "is not on this machine" in message
    hub.failing["/resolve/"] = 503
    message = failure(hub, tmp_path, "corpus()", before=QUICK)
    assert "hub failed" in message
    assert "use the copy with --offline" in message


def test_offline_and_not_cached(hub, tmp_path):
    message = failure(hub, tmp_path, "corpus(offline=True)", before=NO_SOCKETS)
    assert "me/docs is not on this machine, and connections are off" in message
    message = failure(hub, tmp_path, "corpus(offline=True, streaming=True)", before=NO_SOCKETS)
    assert "streams from the hub" in message
    assert hub.requests == []


def test_local_data_is_read_from_the_data_root_first(hub, tmp_path):
    folder = tmp_path / "data" / "docs"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_bytes(jsonl(ROWS[:7]))
    code = NO_SOCKETS + "c = corpus(); print(json.dumps([c.sources[0].kind, c.sources[0].rows, texts(c, 7)]))"
    kind, rows, texts = result(hub, tmp_path, code, METALM_DATA=str(tmp_path / "data"))
    assert (kind, rows) == ("hub", 7)
    assert sorted(texts) == sorted(row["text"] for row in ROWS[:7])


def test_wrong_names_inside_a_data_set(hub, tmp_path):
    message = failure(hub, tmp_path, "corpus(split='test')")
    assert "no such configuration or split" in message
    assert "train" in message
    assert "'en' not found" in failure(hub, tmp_path, "corpus(config='en')")
    message = failure(hub, tmp_path, "corpus(text='body')")
    assert "no column 'body'" in message
    assert "'text', 'meta'" in message
    assert "no such revision" in failure(hub, tmp_path, "corpus(revision='v9')")


def test_a_hub_that_refuses_access(hub, tmp_path):
    hub.repos["datasets", "me/docs"].gated = True
    message = failure(hub, tmp_path, "corpus()")
    assert "no access to me/docs" in message
    assert "hf auth login" in message
    del hub.repos["datasets", "me/docs"]
    assert "me/docs is not on the hub" in failure(hub, tmp_path, "corpus()")
    hub.failing["/api/"] = 502
    assert "status 502" in failure(hub, tmp_path, "corpus()")
    message = failure(hub, tmp_path, "corpus()", HF_ENDPOINT="http://127.0.0.1:9")
    assert "the hub cannot be reached" in message


def test_a_broken_row_of_a_downloaded_data_set(hub, tmp_path):
    hub.add("datasets", "me/docs", {"train/0.jsonl": jsonl(ROWS[:3]) + b'{"text": \n'})
    message = failure(hub, tmp_path, "corpus(streaming=False)")
    assert "a file of me/docs cannot be read" in message


@pytest.mark.slow
def test_workers_of_a_loader_read_the_whole_stream(hub, tmp_path):
    """``datasets`` would give each worker a share of the shards, but the numbers of the plan need all of them."""
    (tmp_path / "program.py").write_text(OPEN + LOADER)
    done = hub.run("import runpy; runpy.run_path('program.py', run_name='__main__')", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "True"


LOADER = """
import torch.utils.data as loading
class Numbers(loading.IterableDataset):
    def __init__(self, reader):
        self.reader = reader
    def __iter__(self):
        for number in range(loading.get_worker_info().id, 90, 2):
            yield self.reader.get(number).text
if __name__ == "__main__":
    c = corpus()
    loader = loading.DataLoader(Numbers(c.reader(bool)), batch_size=None, num_workers=2, multiprocessing_context="fork")
    print(list(loader) == texts(c, 90))
"""
