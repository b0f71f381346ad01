"""Comparison of what the processes of a run train: a recipe, data, tokenizers and parameters must be the same."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from typing import Any

import torch

import metalm_cli
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.models.assembly import Assembly
from metalm_cli.runs.data_record import DataRecord, data_differences
from metalm_cli.runs.resume_check import flatten
from metalm_cli.training.distributed.collectives import Collectives

MAX_LISTED = 6
"""Differences that an error lists."""
SAMPLE_TEXTS = 16
"""Texts whose hash stands for a stream, whose files have no hash."""


def check_equal_recipes(collectives: Collectives, recipe: dict[str, Any], resume: bool, dry_run: bool) -> None:
    """Compare the version of metalm, the recipe, and whether the run resumes or is a dry run.

    Raises:
        MetalmError: A process differs from rank zero.
    """
    if collectives.num_processes > 1:
        options = {"--resume": resume, "--dry-run": dry_run, "version of metalm": metalm_cli.__version__}
        facts = {**flatten(recipe), **options}
        _check_equal(
            collectives, facts, "the processes of the run have different recipes", "give all processes the same recipe"
        )


def check_equal_data(collectives: Collectives, record: DataRecord, sample: str) -> None:
    """Compare the data that the processes have opened.

    Args:
        collectives: The processes of the run.
        record: Record of the data of this process.
        sample: Hash of a sample of the texts.

    Raises:
        MetalmError: A process reads other data than rank zero.
    """
    if collectives.num_processes == 1:
        return
    (first, first_sample), *others = collectives.gather_objects((record, sample))
    for rank, (other, other_sample) in enumerate(others, start=1):
        differences = data_differences(first, other)
        if not differences and first_sample != other_sample:
            differences = ["the first texts are others"]
        if differences:
            raise _difference_error(
                "the processes of the run read different data",
                f"process {rank}, compared with process 0: {'; '.join(differences[:MAX_LISTED])}",
                "copy the same data to all machines",
            )


def check_equal_models(collectives: Collectives, assembly: Assembly, parameters: Mapping[str, torch.Tensor]) -> None:
    """Compare the tokenizers, the names and shapes of the parameters, and the values of the parameters of each part.

    Args:
        collectives: The processes of the run.
        assembly: The model.
        parameters: Parameters of the root module by name, those of an objective included.

    Raises:
        MetalmError: A process differs from rank zero.
    """
    if collectives.num_processes > 1:
        tokenizers = {name: _tokenizer_hash(owner) for name, owner in assembly.family.tokenizers(assembly).items()}
        shapes = {name: list(tensor.shape) for name, tensor in parameters.items()}
        _check_equal(
            collectives,
            flatten({"sha256 of the tokenizers": tokenizers})
            | {f"shape of {name}": shapes[name] for name in shapes}
            | {f"CRC-32 of the weights of {part}": crc for part, crc in _checksums(assembly, parameters).items()},
            "the processes of the run have different models",
            "copy the same checkpoints to all machines",
        )


def _checksums(assembly: Assembly, parameters: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """CRC-32 of the values of the parameters of each part, in hexadecimal; about half a second a GB."""
    part_of = {id(tensor): name for name, part in assembly.parts().items() for tensor in part.parameters()}
    checksums: dict[str, int] = {}
    for name in sorted(parameters):
        part = part_of.get(id(parameters[name]), "the objective")
        values = parameters[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        checksums[part] = zlib.crc32(values.numpy().data, checksums.get(part, 0))
    return {part: f"{checksum:08x}" for part, checksum in checksums.items()}


def text_sample(texts: Any) -> str:
    """Hash of texts."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


def _tokenizer_hash(owner: Any) -> str:
    """Hash of a tokenizer, or of that of a processor; empty for a processor without one."""
    tokenizer = getattr(owner, "tokenizer", owner)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return "" if backend is None else hashlib.sha256(backend.to_str().encode()).hexdigest()


def _check_equal(collectives: Collectives, facts: dict[str, Any], what: str, remedy: str) -> None:
    first, *others = collectives.gather_objects(facts)
    for rank, other in enumerate(others, start=1):
        names = sorted(name for name in first.keys() | other.keys() if first.get(name) != other.get(name))
        if names:
            listed = "; ".join(f"{name}: {first.get(name)!r} and {other.get(name)!r}" for name in names[:MAX_LISTED])
            raise _difference_error(what, f"process 0 and process {rank} have {listed}", remedy)


def _difference_error(what: str, why: str, remedy: str) -> MetalmError:
    error = MetalmError(what, why=why, remedy=remedy, exit_code=Exit.USAGE)
    error.is_shared = True  # all processes compare the same facts
    return error
