"""Checkpoints survive kills, full disks and altered bytes, and load what was saved."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from metalm_cli.common import atomic_files
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.runs import checkpoint
from metalm_cli.runs.checkpoint_files import encode_manifest

SMALL = {"model": {"w": torch.arange(6, dtype=torch.float32).reshape(2, 3)}, "optimizer": {"w.exp_avg": torch.ones(3)}}


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_everything_comes_back_bit_for_bit(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(8, 6, generator=generator)
    model = {
        "f32": base,
        "tied": base,
        "transposed": base.t(),
        "column": base[:, 2],
        "row": base[3],
        "bf16": base.bfloat16()[::2],
        "f16": base.half(),
        "f64": base.double(),
        "scalar": torch.tensor(3.5),
        "step": torch.tensor(7, dtype=torch.int64),
        "bool": base > 0,
        "u8": torch.arange(5, dtype=torch.uint8),
        "empty": torch.empty(0, 4),
        "expanded": torch.ones(1).expand(4),
        "nan": torch.tensor([float("nan"), float("inf"), -0.0]),
        "grad": torch.nn.Parameter(torch.randn(3, generator=generator)),
        "ünï.\n": torch.zeros(2),
    }
    state = {"step": 100, "lr": 0.1 + 0.2, "best": float("inf"), "slots": [[1, 2], [3, None]], "text": "ü\n"}
    path = checkpoint.save(tmp_path, 100, {"model": model, "none": {}}, state)

    tensors, loaded = checkpoint.load(path)

    assert path == tmp_path / "step-00000100"
    assert loaded == state
    assert list(tensors) == ["model", "none"]
    assert tensors["none"] == {}
    assert set(tensors["model"]) == set(model)
    for name, tensor in model.items():
        loaded_tensor = tensors["model"][name]
        assert (loaded_tensor.dtype, loaded_tensor.shape) == (tensor.dtype, tensor.shape), name
        assert torch.equal(loaded_tensor.nan_to_num(5.0), tensor.detach().nan_to_num(5.0)), name
    assert tensors["model"]["tied"] is tensors["model"]["f32"]
    assert names(path) == ["manifest.json", "model.safetensors", "none.safetensors", "state.json"]


def test_the_files_are_ordinary_safetensors_and_shared_tensors_are_stored_once(tmp_path: Path) -> None:
    weight = torch.randn(100, 10)
    model = {"embed": weight, "head": weight, "half": torch.ones(3).half(), "wide": torch.ones(3).double()}
    path = checkpoint.save(tmp_path, 1, {"model": model}, {})
    stored = load_file(path / "model.safetensors")
    assert set(stored) == {"embed", "half", "wide"}
    assert torch.equal(stored["embed"], weight)
    assert torch.equal(stored["wide"], model["wide"])


def test_large_groups_are_split_with_an_index(tmp_path: Path) -> None:
    model = {f"w{i}": torch.full((10,), float(i)) for i in range(5)} | {"big": torch.arange(100.0)}
    path = checkpoint.save(tmp_path, 1, {"model": model}, {}, shard_bytes=90)
    index = json.loads((path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 5 * 40 + 400
    assert set(index["weight_map"]) == set(model)
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(path / file)[name], model[name])
    sizes = [sum(t.nbytes for t in load_file(f).values()) for f in path.glob("model-*.safetensors")]
    assert sorted(sizes) == [40, 80, 80, 400]
    tensors, _ = checkpoint.load(path)
    assert all(torch.equal(tensors["model"][name], model[name]) for name in model)


def test_loaded_tensors_outlive_the_folder(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 1, SMALL, {})
    tensors, _ = checkpoint.load(path)
    with open(path / "model.safetensors", "r+b") as file:
        file.write(bytes((path / "model.safetensors").stat().st_size))
    assert torch.equal(tensors["model"]["w"], SMALL["model"]["w"])


@pytest.mark.parametrize(
    ("tensors", "state"),
    [
        (SMALL, {"slots": {1: 2}}),
        (SMALL, {"x": torch.ones(1)}),
        ({"model": {"w": torch.ones(2, dtype=torch.complex64)}}, {}),
        ({"model": {"w": torch.eye(2).to_sparse()}}, {}),
        ({"../model": {"w": torch.ones(2)}}, {}),
    ],
)
def test_invalid_tensors_and_states_are_rejected_before_anything_is_written(tmp_path: Path, tensors, state) -> None:
    with pytest.raises(TypeError):
        checkpoint.save(tmp_path / "checkpoints", 1, tensors, state)
    assert names(tmp_path) == []


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, SMALL, {"time": 1})
    checkpoint.save(tmp_path, 1, SMALL, {"time": 2})
    assert names(tmp_path) == ["step-00000001"]
    assert checkpoint.load(tmp_path / "step-00000001")[1] == {"time": 2}


def test_a_replacement_cut_between_its_renames_loses_nothing(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 1, SMALL, {"time": 1})
    aside = atomic_files.backup_folder(path)
    path.rename(aside)
    assert checkpoint.find_latest(tmp_path) == (aside, [])
    assert checkpoint.load(aside)[1] == {"time": 1}
    assert checkpoint.remove_interrupted(tmp_path) == []
    assert checkpoint.find_latest(tmp_path) == (path, [])
    shutil.copytree(path, aside)
    checkpoint.remove_interrupted(tmp_path)
    assert names(tmp_path) == ["step-00000001"]


def damage_by(kind: str, path: Path) -> None:
    file = path / "model.safetensors"
    if kind == "truncated":
        os.truncate(file, file.stat().st_size - 1)
    elif kind == "altered":
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    elif kind == "missing":
        file.unlink()
    elif kind == "no manifest":
        (path / "manifest.json").unlink()
    elif kind == "empty manifest":
        (path / "manifest.json").write_bytes(b"")
    elif kind == "other step":
        path.rename(path.parent / "step-00000099")
    elif kind in ("file outside", "unlisted file"):
        manifest = json.loads((path / "manifest.json").read_text())
        manifest.pop("sha256")
        facts = manifest["files"].pop("model.safetensors") if kind == "unlisted file" else {"size": 0, "sha256": ""}
        manifest["files"]["../x" if kind == "file outside" else "other"] = facts
        (path / "manifest.json").write_bytes(encode_manifest(manifest))


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("truncated", "bytes, not"),
        ("altered", "model.safetensors was altered"),
        ("missing", "model.safetensors is missing"),
        ("unlisted file", "manifest.json lacks the size and hash of 'model.safetensors'"),
        ("no manifest", "manifest.json is missing"),
        ("empty manifest", "manifest.json was altered or truncated"),
        ("other step", "the manifest is of step 3, the folder's name of step 99"),
        ("file outside", "not a file of this folder"),
    ],
)
def test_damage_is_named_and_the_one_before_is_used(tmp_path: Path, kind: str, why: str) -> None:
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, SMALL, {"step": step})
    damage_by(kind, tmp_path / "step-00000003")
    (tmp_path / ".step-00000004.tmp-1234").mkdir()

    path, damaged = checkpoint.find_latest(tmp_path)

    assert path == tmp_path / "step-00000002"
    assert [damage.path.name[:6] for damage in damaged] == [".step-", "step-0"]
    assert why in damaged[1].reason
    if kind != "other step":
        with pytest.raises(MetalmError, match="damaged") as caught:
            checkpoint.load(tmp_path / "step-00000003")
        assert why in caught.value.why
    assert [leftover.name for leftover in checkpoint.remove_interrupted(tmp_path)] == [".step-00000004.tmp-1234"]


def test_no_folder_and_no_whole_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.find_latest(tmp_path / "none") == (None, [])
    assert checkpoint.remove_old(tmp_path / "none", 1) == []
    assert checkpoint.remove_interrupted(tmp_path / "none") == []
    damage_by("altered", checkpoint.save(tmp_path, 1, SMALL, {}))
    path, damaged = checkpoint.find_latest(tmp_path)
    assert path is None
    assert len(damaged) == 1


@pytest.fixture(scope="module")
def complete_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tensors = {"model": {"a": torch.randn(4, 5), "b": torch.randn(7).bfloat16()}, "optimizer": {"m": torch.zeros(30)}}
    return checkpoint.save(tmp_path_factory.mktemp("whole"), 5, tensors, {"a": [1, 2, {"b": "text"}]}, shard_bytes=90)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_altered_byte_is_found(complete_checkpoint: Path, data: st.DataObject) -> None:
    file = data.draw(st.sampled_from(sorted(complete_checkpoint.iterdir())))
    content = file.read_bytes()
    offset = data.draw(st.integers(0, len(content) - 1))
    change = data.draw(st.integers(1, 255))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / complete_checkpoint.name
        shutil.copytree(complete_checkpoint, copy)
        assert checkpoint.find_damage(copy) is None
        (copy / file.name).write_bytes(content[:offset] + bytes([content[offset] ^ change]) + content[offset + 1 :])
        assert checkpoint.find_damage(copy) is not None
        assert checkpoint.find_latest(Path(folder))[0] is None


def test_pruning_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in range(1, 7):
        checkpoint.save(tmp_path, step, SMALL, {})
    removed = checkpoint.remove_old(tmp_path, 2, best=3)
    assert [path.name for path in removed] == ["step-00000001", "step-00000002", "step-00000004"]
    assert names(tmp_path) == ["step-00000003", "step-00000005", "step-00000006"]


def test_pruning_counts_whole_ones_alone_and_never_removes_the_last(tmp_path: Path) -> None:
    for step in range(1, 5):
        checkpoint.save(tmp_path, step, SMALL, {})
    damage_by("truncated", tmp_path / "step-00000004")
    damage_by("missing", tmp_path / "step-00000002")
    checkpoint.remove_old(tmp_path, 1)
    assert names(tmp_path) == ["step-00000003", "step-00000004"]
    damage_by("no manifest", tmp_path / "step-00000003")
    assert checkpoint.remove_old(tmp_path, 1) == []
    assert names(tmp_path) == ["step-00000003", "step-00000004"]


def test_a_removal_that_is_cut_leaves_no_damaged_checkpoint(tmp_path: Path, monkeypatch) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, step, SMALL, {})
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda path, **_: (path / "manifest.json").unlink())
        checkpoint.remove_old(tmp_path, 1)
    leftover, newest = names(tmp_path)
    assert leftover.startswith(".step-00000001.tmp-")
    assert newest == "step-00000002"
    checkpoint.remove_interrupted(tmp_path)
    assert names(tmp_path) == ["step-00000002"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_failing_disk_leaves_the_last_whole(tmp_path: Path, monkeypatch, number: int, call: str) -> None:
    first = checkpoint.save(tmp_path, 1, SMALL, {})

    def fails(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fails)
        with pytest.raises(MetalmError) as caught:
            checkpoint.save(tmp_path, 2, SMALL, {})
    assert caught.value.exit_code == Exit.FAILED
    assert f"the last checkpoint {first} is complete" in str(caught.value)
    assert ("no space left" in str(caught.value)) == (number in (errno.ENOSPC, errno.EDQUOT))
    assert names(tmp_path) == ["step-00000001"]


FULL_DISK = """
    import sys
    from pathlib import Path
    import torch
    from metalm_cli.errors import MetalmError
    from metalm_cli.runs import checkpoint
    root = Path(sys.argv[1])
    for step in range(1, 100):
        try:
            checkpoint.save(root, step, {"model": {"w": torch.full((50_000,), float(step))}}, {"step": step})
        except MetalmError as error:
            print(int(error.exit_code), error)
            break
    path, damaged = checkpoint.find_latest(root)
    assert path.name == f"step-{step - 1:08d}" and not damaged, (path, damaged)
    assert checkpoint.load(path)[0]["model"]["w"][0] == step - 1
    assert not [p for p in root.iterdir() if p.name.startswith(".")]
    print("whole", step - 1)
"""


def run(script: str, *args: str, before: tuple[str, ...] = (), **kwargs) -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, "-c", textwrap.dedent(script), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **kwargs)


def test_a_full_disk_for_real(tmp_path: Path) -> None:
    mount = 'mount -t tmpfs -o size=1m none "$0" && exec "$@"'
    enter = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(tmp_path))
    if shutil.which("unshare") is None or subprocess.run([*enter, "true"], capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here")
    done = run(FULL_DISK, str(tmp_path), before=enter)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 no space left: the checkpoint of step ")
    number = done.stdout.split()[-1]
    assert int(number) >= 3
    assert f"step-{int(number):08d} is complete" in done.stdout


def test_a_limit_on_file_sizes(tmp_path: Path) -> None:
    script = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n" + textwrap.dedent(
        FULL_DISK
    ).replace("50_000", "20_000 * step")
    done = run(script, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "File too large" in done.stdout
    assert done.stdout.endswith("whole 3\n")


KILLED = """
    import os, random, shutil, signal, sys, time
    from pathlib import Path
    import torch
    from metalm_cli.runs import checkpoint
    torch.set_num_threads(1)
    top, trials, mode = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    random.seed(int(sys.argv[4]))

    def work(root, pipe, first):
        for step in range(first, 1000):
            saved = min(step, 30) if step > 3 else 1    # the first steps replace one folder repeatedly
            tensors = {"model": {"w": torch.full((20_000,), float(step))}}
            checkpoint.save(root, saved, tensors, {"count": step}, shard_bytes=30_000)
            os.write(pipe, step.to_bytes(4, "little"))
            checkpoint.remove_old(root, 2)

    def die_at(moment):
        count = 0
        def counted(real):
            def call(*args, **kwargs):
                nonlocal count
                count += 1
                if count == moment:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **kwargs)
            return call
        for module, name in ((os, "fsync"), (os, "rename"), (os, "mkdir"), (os, "unlink"), (os, "rmdir")):
            setattr(module, name, counted(getattr(module, name)))

    interrupted = 0
    for trial in range(trials):
        root = top / str(trial)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            if mode == "calls":
                die_at(trial + 1)
            try:
                work(root, write, 1)
            finally:
                os._exit(1)
        os.close(write)
        if mode == "times":
            time.sleep(random.uniform(0, 0.15))
            os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        received = b""
        while chunk := os.read(read, 4096):
            received += chunk
        os.close(read)
        done = int.from_bytes(received[-4:], "little")
        path, damaged = checkpoint.find_latest(root)
        assert all("interrupted" in d.reason for d in damaged), damaged
        interrupted += bool(damaged)
        if path is None:
            assert done == 0, done
            continue
        tensors, state = checkpoint.load(path)
        assert state["count"] in (done, done + 1), (state, done)
        assert (tensors["model"]["w"] == state["count"]).all()
        checkpoint.remove_interrupted(root)
        again, damaged = checkpoint.find_latest(root)
        assert not damaged and checkpoint.load(again)[1] == state
        shutil.rmtree(root)
    print(interrupted)
"""


@pytest.mark.parametrize(("mode", "trials"), [("times", 40), ("calls", 90)])
def test_a_kill_at_any_moment_leaves_the_newest_whole(tmp_path: Path, mode: str, trials: int) -> None:
    seed = str(random.randrange(10**6))
    done = run(KILLED, str(tmp_path), str(trials), mode, seed, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, f"seed {seed}\n{done.stderr}"
    assert int(done.stdout) > trials // 10, "too few kills fell inside a save to show anything"
