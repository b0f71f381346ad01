"""Checkpoints in installed packages: files of distributions, found by their metadata and checked by their SHA-256.

No code of a package is imported.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from metalm_cli.common.checkpoints.cached_folders import cached_folder
from metalm_cli.common.checkpoints.gguf_file import dequantised_folder
from metalm_cli.common.checkpoints.origin import Checkpoint, Origin
from metalm_cli.common.checkpoints.package_table import CheckpointPackage
from metalm_cli.common.checkpoints.remembered_hash import remembered_sha256
from metalm_cli.common.checkpoints.unpack_zip import checkpoint_members, unpack_members
from metalm_cli.common.file_hash import file_sha256
from metalm_cli.errors import MetalmError

WEIGHTS = "model.safetensors"


class PackageUnavailableError(MetalmError):
    """A package is not installed, or its file is another one than the table names."""


def find_in_package(package: CheckpointPackage) -> Checkpoint:
    """Find the checkpoint of a package, and unpack or dequantise it into the cache if necessary.

    Raises:
        PackageUnavailableError: The package is not installed, lacks the file, or has another file.
        MetalmError: The file is damaged, or the cache cannot be written.
    """
    path, version = _file_of(package)
    origin = Origin("package", f"{package.distribution} {version}", package.sha256)
    if path.suffix == ".gguf":
        folder, origin = dequantised_folder(path, origin)
        return Checkpoint(package.name, folder, origin)
    members = checkpoint_members(path)
    if not any(member.filename == WEIGHTS for member in members):
        raise MetalmError(f"the archive of a checkpoint has no {WEIGHTS}", where=str(path))

    def fill(folder: Path) -> None:
        unpack_members(path, members, folder)
        weights_sha256 = file_sha256(folder / WEIGHTS)
        if package.weights_sha256 not in ("", weights_sha256):
            raise _other_file(package, path, version, weights_sha256, package.weights_sha256)

    num_bytes = sum(member.file_size for member in members)
    return Checkpoint(package.name, cached_folder(package.sha256, origin, num_bytes, fill), origin)


def _file_of(package: CheckpointPackage) -> tuple[Path, str]:
    """Return the file of an installed package, checked by its hash, and the package's version."""
    try:
        distribution = metadata.distribution(package.distribution)
    except metadata.PackageNotFoundError as error:
        raise PackageUnavailableError(
            f"the package of the checkpoint {package.name} is not installed",
            where=package.distribution,
            remedy=f"make checkpoints, or {package.install_command}",
        ) from error
    version = str(distribution.version)
    path = Path(str(distribution.locate_file(package.file)))
    if not path.is_file():
        raise PackageUnavailableError(
            f"the package of the checkpoint {package.name} lacks its file",
            where=str(path),
            why=f"{package.distribution} {version} is installed, {package.version} has the file",
            remedy=f"make checkpoints, or {package.install_command}",
        )
    sha256 = remembered_sha256(path)
    if sha256 != package.sha256:
        raise _other_file(package, path, version, sha256, package.sha256)
    return path, version


def _other_file(
    package: CheckpointPackage, path: Path, version: str, sha256: str, expected: str
) -> PackageUnavailableError:
    return PackageUnavailableError(
        f"the package of the checkpoint {package.name} holds another file",
        where=str(path),
        why=f"{package.distribution} {version} has sha256 {sha256[:16]}…, {package.version} has {expected[:16]}…",
        remedy=f"make checkpoints, or {package.install_command} --force-reinstall",
    )
