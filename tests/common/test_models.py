"""Models by name: local folders, downloads from a loopback hub, and error messages."""

import errno
import hashlib
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from hub_server import NO_SOCKETS, QUICK, HubServer
from metalm_cli.common import hub as hub_module
from metalm_cli.common import hub_downloads
from metalm_cli.common.checkpoints.find import find_checkpoint, model_folder
from metalm_cli.common.hub import explain_hub_error
from metalm_cli.errors import MetalmError

GET = "import sys; from metalm_cli.common.checkpoints.find import model_folder\n"
FAIL = """
from metalm_cli.errors import MetalmError
try:
    model_folder({arguments})
except MetalmError as error:
    print(error); sys.exit(int(error.exit_code))
"""
REPORT = "import atexit; atexit.register(lambda: print(slept))\n"


def failure(server: HubServer, home, arguments: str, before: str = "", **environment: str) -> str:
    """Error message of a download that fails with exit code 2 and without a traceback."""
    done = server.run(before + GET + FAIL.format(arguments=arguments), home, **environment)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory) -> dict[str, bytes]:
    """Files of a GPT-2 with a few thousand parameters."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("tiny")
    GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=50, n_positions=16)).save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_download_then_offline_without_a_request(hub, tmp_path, tiny_model):
    extra = {"pytorch_model.bin": b"a pickle", "onnx/config.json": b"{}", "code.py": b"x", "README.md": b"x"}
    hub.add("models", "me/tiny", tiny_model | extra)
    done = hub.run(GET + "print(model_folder('me/tiny'))", tmp_path)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == tiny_model
    assert not [r for r in hub.requests if r.path.endswith((".bin", ".py", ".md")) or "onnx" in r.path]

    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(folder).config.n_embd == 16

    hub.requests.clear()
    again = hub.run(NO_SOCKETS + GET + "print(model_folder('me/tiny', offline=True))", tmp_path)
    assert again.stdout == done.stdout, again.stderr
    assert hub.requests == []


def test_code_is_downloaded_only_where_it_may_run(hub, tmp_path):
    files = {"config.json": b"{}", "model.safetensors": b"x", "own.py": b"own = 1", "pytorch_model.bin": b"a pickle"}
    hub.add("models", "me/own", files)
    names = "; print(sorted(p.name for p in folder.iterdir()))"
    done = hub.run(GET + "folder = model_folder('me/own')" + names, tmp_path)
    assert done.stdout.strip() == "['config.json', 'model.safetensors']", done.stderr
    assert not [request for request in hub.requests if request.path.endswith(".py")]
    done = hub.run(GET + "folder = model_folder('me/own', code=True)" + names, tmp_path)
    assert done.stdout.strip() == "['config.json', 'model.safetensors', 'own.py']", done.stderr


def test_a_broken_download_continues_where_it_stopped(hub, tmp_path):
    weights = bytes(range(256)) * 4096
    hub.add("models", "me/tiny", {"config.json": b"{}", "model.safetensors": weights})
    hub.truncated_downloads["model.safetensors"] = 300_000
    small = "from huggingface_hub import constants; constants.DOWNLOAD_CHUNK_SIZE = 1 << 16\n"
    done = hub.run(QUICK + small + GET + "print(model_folder('me/tiny'))", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (Path(done.stdout.strip()) / "model.safetensors").read_bytes() == weights
    ranges = [r.range for r in hub.requests if r.method == "GET" and r.path.endswith("model.safetensors")]
    assert ranges == [None, f"bytes={4 << 16}-"]


def test_a_revision_is_what_is_downloaded(hub, tmp_path):
    hub.add("models", "me/tiny", {"model.safetensors": b"x"}, branches=("main", "v2"))
    done = hub.run(GET + "print(model_folder('me/tiny', revision='v2'))", tmp_path)
    assert done.returncode == 0, done.stderr
    assert any("/revision/v2" in request.path for request in hub.requests)
    message = failure(hub, tmp_path, "'me/tiny', revision='v3'")
    assert "me/tiny has no such revision" in message
    assert "correct `revision`" in message


def test_gated_private_and_missing_repositories(hub, tmp_path):
    hub.add("models", "me/gated", {"config.json": b"{}", "model.safetensors": b"x"}, gated=True)
    hub.add("models", "me/private", {"config.json": b"{}", "model.safetensors": b"x"}, private=True)
    message = failure(hub, tmp_path, "'me/gated'")
    assert "no access to me/gated" in message
    assert "401" in message
    assert "hf auth login" in message
    message = failure(hub, tmp_path, "'me/gated'", HF_TOKEN="hf_SecretSecret")
    assert "403" in message
    assert "ask for access" in message
    assert "SecretSecret" not in message
    assert hub.requests[-1].token == "Bearer hf_SecretSecret"
    for name in ("me/private", "me/nothing"):
        message = failure(hub, tmp_path, repr(name))
        assert f"{name} is not on the hub" in message
        assert "check the name" in message


def test_requests_to_a_failing_hub_are_retried(hub, tmp_path):
    hub.add("models", "me/tiny", {"config.json": b"{}", "model.safetensors": b"x"})
    hub.failing["/api/"] = 503
    assert "status 503" in failure(hub, tmp_path, "'me/tiny'")
    hub.failing = {"/resolve/": 500}
    hub.requests.clear()
    message = failure(
        hub, tmp_path, "'me/tiny'", before=QUICK + "import atexit; atexit.register(lambda: print(slept))\n"
    )
    assert "the hub failed to serve me/tiny" in message
    assert "status 500" in message
    assert sum(json.loads(message.splitlines()[-1])) < 60
    assert len(hub.requests) < 20


def test_a_hub_out_of_reach(hub, tmp_path):
    hub.add("models", "me/tiny", {"config.json": b"{}", "model.safetensors": b"x"})
    unreachable = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    message = failure(hub, tmp_path, "'me/tiny'", **unreachable)
    assert "the hub cannot be reached for me/tiny" in message
    assert "http://127.0.0.1:9" in message
    assert "--offline" in message
    assert hub.run(GET + "model_folder('me/tiny')", tmp_path).returncode == 0
    done = hub.run(GET + "print(model_folder('me/tiny'))", tmp_path, **unreachable)
    assert done.returncode == 0
    assert "using the cached copy of me/tiny" in done.stderr


def test_offline_and_not_cached(hub, tmp_path):
    message = failure(hub, tmp_path, "'me/tiny', offline=True", before=NO_SOCKETS)
    assert "me/tiny is not on this machine, and connections are off" in message
    assert "run once without --offline" in message
    assert hub.requests == []


def test_pickled_weights_are_refused_before_they_are_downloaded(hub, tmp_path):
    hub.add("models", "me/old", {"config.json": b"{}", "pytorch_model.bin": b"x", "tokenizer.json": b"{}"})
    message = failure(hub, tmp_path, "'me/old'")
    assert "me/old has no weights in safetensors" in message
    assert not [request for request in hub.requests if "resolve" in request.path]
    done = hub.run(GET + "print(sorted(p.name for p in model_folder('me/old', weights=False).iterdir()))", tmp_path)
    assert done.stdout.strip() == "['config.json', 'tokenizer.json']"


def test_folders_come_first(tmp_path, monkeypatch):
    (tmp_path / "owner" / "model").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    monkeypatch.setattr(hub_module, "_snapshot", lambda *_: pytest.fail("the hub was accessed"))
    monkeypatch.setattr(hub_module, "_is_reachable", lambda *_: pytest.fail("the hub was accessed"))
    assert model_folder(str(tmp_path / "other")) == tmp_path / "other"
    monkeypatch.setenv("METALM_CHECKPOINTS", str(tmp_path))
    assert model_folder("owner/model") == tmp_path / "owner" / "model"
    assert model_folder("owner/other") == tmp_path / "other"


@pytest.mark.parametrize("name", ["../other", "a/../../other", "/nowhere/at/all", "./none", "a/b/c", "..", "a/..", ""])
def test_names_do_not_lead_out_of_their_root(name, tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    (tmp_path / "root").mkdir()
    monkeypatch.chdir(tmp_path / "root")
    monkeypatch.setenv("METALM_CHECKPOINTS", str(tmp_path / "root"))
    if name in ("../other", ".."):
        assert model_folder(name)  # an existing relative path is allowed, because the user wrote it
        monkeypatch.chdir("/")
        name = f"{name}/nope"
    with pytest.raises(MetalmError, match="no model folder"):
        model_folder(name)


def test_revisions_are_names(tmp_path):
    with pytest.raises(MetalmError, match="is not a valid revision"):
        model_folder("me/tiny", revision="../x")


# -- damaged downloads ------------------------------------------------------------------------------------------------

DAMAGED = "the downloaded copy of me/tiny is damaged"


@pytest.mark.parametrize("nested", [False, True])
def test_a_download_with_other_bytes_is_removed(hub, tmp_path, nested):
    weights = bytes(range(256)) * 200
    name = "processors/text/tokenizer.safetensors" if nested else "model.safetensors"
    files = {"config.json": b'{"model_type": "metalm"}', "model.safetensors": weights[:1000], name: weights}
    hub.add("models", "me/tiny", files)
    hub.damaged[name] = bytes(len(weights))
    message = failure(hub, tmp_path, "'me/tiny'")
    assert DAMAGED in message
    assert hashlib.sha256(bytes(len(weights))).hexdigest()[:16] in message
    assert hashlib.sha256(weights).hexdigest()[:16] in message
    assert "run the command again" in message
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == bytes(len(weights))]
    hub.damaged.clear()
    done = hub.run(GET + "print(model_folder('me/tiny'))", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (Path(done.stdout.strip()) / name).read_bytes() == weights


def test_a_damaged_copy_of_an_earlier_download_is_found_offline(hub, tmp_path):
    hub.add("models", "me/tiny", {"config.json": b"{}", "model.safetensors": b"weights"})
    hub.damaged["model.safetensors"] = b"WEIGHTS"
    download = "from huggingface_hub import snapshot_download; print(snapshot_download('me/tiny'))"
    assert hub.run(download, tmp_path).returncode == 0
    assert DAMAGED in failure(hub, tmp_path, "'me/tiny', offline=True")
    assert "not completely on this machine" in failure(hub, tmp_path, "'me/tiny', offline=True")


def test_a_file_is_hashed_once(hub, tmp_path):
    hub.add("models", "me/tiny", {"config.json": b"{}", "model.safetensors": b"weights"})
    counting = (
        "from metalm_cli.common import hub_downloads\n"
        "from metalm_cli.common.checkpoints.find import model_folder\n"
        "hashed = []; real = hub_downloads.file_sha256\n"
        "hub_downloads.file_sha256 = lambda path: hashed.append(path.name) or real(path)\n"
        "folder = model_folder('me/tiny'); print(len(hashed), folder / 'model.safetensors')"
    )
    first, path = hub.run(counting, tmp_path).stdout.split()
    assert first == "1"
    assert hub.run(counting, tmp_path).stdout.split()[0] == "0"
    blob = Path(path).resolve()
    blob.write_bytes(b"WEIGHTS")
    assert DAMAGED in failure(hub, tmp_path, "'me/tiny'")


# -- a hub that answers late, slowly or with something else -----------------------------------------------------------

PAGE = b"<html><title>Log in to the network</title></html>"


@pytest.mark.parametrize("status", [200, 403, 404, 511])
def test_a_login_page_of_the_network(hub, tmp_path, status):
    hub.add("models", "me/tiny", {"config.json": b"{}", "model.safetensors": b"x"})
    hub.pages["/"] = (status, PAGE)
    message = failure(hub, tmp_path, "'me/tiny'")
    if status == 200:
        assert "the hub cannot be reached for me/tiny" in message
        assert "login page" in message
    hub.pages.clear()
    folder = hub.run(GET + "print(model_folder('me/tiny'))", tmp_path).stdout
    hub.pages["/"] = (status, PAGE)
    done = hub.run(GET + "print(model_folder('me/tiny'))", tmp_path)
    assert done.stdout == folder, done.stderr
    assert "using the cached copy of me/tiny" in done.stderr


SHORT = "from metalm_cli.common import hub_downloads as limits\nlimits.TIMEOUT_S, limits.STALL_S = 0.5, 1.0\n"


@pytest.mark.parametrize("kind", ["silent", "trickling"])
@pytest.mark.parametrize("part", ["/api/", "/resolve/"])
def test_a_hub_without_data_fails_soon(hub, tmp_path, kind, part):
    hub.add("models", "me/tiny", {"config.json": b"{}", "model.safetensors": bytes(1000)})
    getattr(hub, kind).add(part)
    begin = time.monotonic()
    message = failure(hub, tmp_path, "'me/tiny'", before=SHORT)
    assert time.monotonic() - begin < 15
    assert "the hub cannot be reached for me/tiny" in message
    assert len(hub.requests) < 12
    getattr(hub, kind).clear()
    done = hub.run(GET + "print(model_folder('me/tiny'))", tmp_path)
    assert (Path(done.stdout.strip()) / "model.safetensors").read_bytes() == bytes(1000), done.stderr
    getattr(hub, kind).add("/api/")
    done = hub.run(SHORT + GET + "print(model_folder('me/tiny'))", tmp_path)
    assert "using the cached copy of me/tiny" in done.stderr


def test_the_limits_count_only_the_time_of_the_server(monkeypatch):
    """A slow reader, or a large file whose download takes long, is no stalled download."""
    clock = [0.0]
    monkeypatch.setattr(hub_downloads.time, "monotonic", lambda: clock[0])
    request = SimpleNamespace(method="GET", url=SimpleNamespace(host="hub", path="/file"), extensions={})

    def chunks(seconds: float, size: int, count: int):
        for _ in range(count):
            clock[0] += seconds
            yield bytes(size)

    limits = hub_downloads._RequestLimits()
    for chunk in limits.read(chunks(2, 10_000, 100), request):
        assert len(chunk) == 10_000
        clock[0] += 100
    with pytest.raises(TimeoutError, match="hub/file"):
        list(limits.read(chunks(2, 100, 100), request))
    assert clock[0] < 10_500


def test_a_full_disk_and_tokens():
    message = str(explain_hub_error(OSError(errno.ENOSPC, "No space left on device", "/c/file"), "me/tiny"))
    assert "no space left while downloading me/tiny" in message
    assert "HF_HOME" in message
    assert "no space left" in str(explain_hub_error(OSError("Not enough disk space. Needed: 3 GiB"), "me/docs"))
    message = str(explain_hub_error(RuntimeError("bad token hf_abcdefgh123 given"), "me/tiny"))
    assert "abcdefgh" not in message
    assert "<token>" in message


def test_a_misspelt_path_is_corrected_before_the_hub_is_asked(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("metalm_cli.common.checkpoints.find.hub_folder", lambda *_, **__: pytest.fail("asked the hub"))
    (tmp_path / "runs" / "first" / "model").mkdir(parents=True)
    (tmp_path / "runs" / "first" / "recipe.yaml").write_text("")
    for name, similar in (("runs/frist", "runs/first"), ("./runs/frist/model", "runs/first/model")):
        with pytest.raises(MetalmError, match="no model folder") as caught:
            find_checkpoint(name)
        assert caught.value.remedy == f"did you mean {similar}?"
    with pytest.raises(MetalmError, match="no model folder") as caught:
        find_checkpoint("runs/quite-another")
    assert (caught.value.remedy, "holds runs" in caught.value.why) == ("correct the path", True)
