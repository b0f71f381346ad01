"""An open file knows whether its path still leads to it."""

from __future__ import annotations

from pathlib import Path

from metalm_cli.runs.file_identity import FileIdentity


def test_a_file_that_is_appended_to_stays_and_one_that_is_replaced_does_not(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with open(path, "ab") as file:
        identity = FileIdentity(path, file.fileno())
        file.write(b"more")
        file.flush()
        assert identity.problem() == ""
        path.rename(tmp_path / "moved")
        assert identity.problem() == "nothing has this path any more"
        path.write_bytes(b"more")
        assert identity.problem() == "something else has this path now"


def test_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    identity = FileIdentity.of_folder(folder)
    (folder / "file").touch()
    assert identity.problem() == ""
    folder.rename(tmp_path / "moved")
    folder.mkdir()
    assert identity.problem() == "something else has this path now"
