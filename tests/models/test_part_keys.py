"""Keys of parts (rates, what trains, adapters) in each setting: from parts, of a checkpoint, beside adapters, alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from metalm_cli.config import resolve
from metalm_cli.config.recipe_errors import RecipeError
from metalm_cli.errors import MetalmError
from metalm_cli.models.assembly import Assembly, build_encoder, build_metalm
from metalm_cli.models.checkpoint_io import save_model
from metalm_cli.models.trainable import LORA_PARAMETER_MARK, parameter_groups
from model_families import model_recipe

RUN_RATE, RATE = 5e-4, 7e-3
SETTINGS = ("parts", "checkpoint", "adapters", "alone")
"""From parts; of a checkpoint; of a checkpoint with adapters of the decoder; an encoder without a decoder."""

RATES = {
    "model.decoder.learning_rate": ("decoder", "decoder", "decoder", "model.decoder"),
    "model.learning_rates.decoder": ("decoder", "decoder", "decoder", "model.learning_rates.decoder"),
    "model.lora.learning_rate": (None, None, "decoder", None),
    "model.encoders.text.learning_rate": (
        "encoders.text", "encoders.text", "model.encoders.text.learning_rate", "encoders.text",
    ),
    "model.learning_rates.encoders": (
        "encoders.text", "encoders.text", "model.learning_rates.encoders", "encoders.text",
    ),
    "model.connector.learning_rate": (
        "connectors.text", "connectors.text", "connectors.text", "model.connector.learning_rate",
    ),
    "model.encoders.text.connector.learning_rate": (
        "connectors.text", "connectors.text", "connectors.text", "model.encoders.text.connector.learning_rate",
    ),
    "model.learning_rates.connectors": (
        "connectors.text", "connectors.text", "connectors.text", "model.learning_rates.connectors",
    ),
    "model.learning_rates.seq2seq": ("model.learning_rates.seq2seq",) * 4,
}  # fmt: skip
"""For each key and setting the only part whose rate it sets, the key of the error, or None: not a setting of it."""

DECODER, ENCODER, CONNECTOR = "decoder", "encoders.text", "connectors.text"
LAST_OF_DECODER, LAST_OF_ENCODER = "transformer.h.1.", "encoder.layer.1."
TRAINS = {
    "model.decoder.trains=last_1": ((DECODER, LAST_OF_DECODER),) * 3 + ("model.decoder",),
    "model.trains.decoder=last_1": ((DECODER, LAST_OF_DECODER),) * 3 + (None,),
    "model.encoders.text.trains=last_1": ((ENCODER, LAST_OF_ENCODER),) * 4,
    "model.trains.encoders=last_1": ((ENCODER, LAST_OF_ENCODER),) * 4,
    "model.connector.trains=none": ((CONNECTOR, "frozen"),) * 3 + (None,),
    "model.encoders.text.connector.trains=none": ((CONNECTOR, "frozen"),) * 3 + (None,),
    "model.trains.connectors=none": ((CONNECTOR, "frozen"),) * 3 + (None,),
    "model.decoder.trains=none": ((DECODER, "frozen"), (DECODER, "frozen"), "model.lora.parts", "model.decoder"),
    "model.trains.decoder=none": ((DECODER, "frozen"), (DECODER, "frozen"), "model.lora.parts", None),
    "model.lora.parts=[encoders]": ((ENCODER, LORA_PARAMETER_MARK),) * 3 + ("model.lora",),
    "model.lora.parts=[encoders.text]": ((ENCODER, LORA_PARAMETER_MARK),) * 3 + ("model.lora",),
    "model.lora.parts=[encoders.vision]": ("model.lora.parts",) * 3 + ("model.lora",),
}
"""For each key and setting the part and the mark of the names of all parameters that train, or the key of the error."""
CELLS = [
    pytest.param(key, setting, expected, id=f"{key} {setting}")
    for table in (RATES, TRAINS)
    for key, row in table.items()
    for setting, expected in zip(SETTINGS, row, strict=True)
    if expected is not None
]


@pytest.fixture(scope="module")
def folder(tokenizers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a recipe for each setting, and the model of ``checkpoint``."""
    root = tmp_path_factory.mktemp("part-keys")
    model = model_recipe(tokenizers)
    assembly = build_metalm(model, seed=0, sample=lambda count: iter(()))
    save_model(root / "model", assembly.model, assembly.decoder_tokenizer, assembly.processors)
    parts = model.model_dump(mode="json", exclude_unset=True)
    base = {"checkpoint": str(root / "model")}
    models = {"parts": parts, "checkpoint": base, "adapters": {**base, "lora": {"rank": 2, "parts": ["decoder"]}}}
    models["alone"] = {"encoders": parts["encoders"]}
    for setting, values in models.items():
        objective = {"name": "mlm"} if setting == "alone" else {"name": "semi_causal", "span_length": [4, 8]}
        data = {"sources": [{"name": "world", "world": {"documents": 50}}], "sequence_length": 64}
        train = {"steps": 2, "warmup_steps": 0, "learning_rate": RUN_RATE}
        recipe = {"command": "pretrain", "model": values, "data": data, "objective": objective, "train": train}
        (root / f"{setting}.yaml").write_text(json.dumps(recipe))
    return root


def assemble(folder: Path, setting: str, *overrides: str) -> Assembly:
    recipe = resolve("pretrain", str(folder / f"{setting}.yaml"), overrides).recipe
    if setting == "alone":
        return build_encoder(recipe.model, "mlm", seed=0, sample=lambda count: iter(()))
    return build_metalm(recipe.model, seed=0, sample=lambda count: iter(()))


def rates(assembly: Assembly) -> dict[str, float]:
    groups = parameter_groups(assembly.parts(), assembly.policy, RUN_RATE, 0.1)
    return {group["name"].rpartition(".")[0]: group["lr"] for group in groups}


def key_of_error(folder: Path, setting: str, *overrides: str) -> str:
    """Key that the only error names."""
    with pytest.raises(MetalmError) as caught:
        assemble(folder, setting, *overrides)
    error: Any = caught.value
    if not isinstance(error, RecipeError):
        return str(error.where).partition(":")[0]
    assert len(error.problems) == 1, error.problems
    return str(error.problems[0].key)


@pytest.mark.parametrize(("key", "setting", "expected"), CELLS)
def test_each_key_in_each_setting(folder: Path, key: str, setting: str, expected: Any) -> None:
    override = key if "=" in key else f"{key}={RATE}"
    if isinstance(expected, str) and expected.startswith("model."):
        assert key_of_error(folder, setting, override) == expected
        return
    assembly = assemble(folder, setting, override)
    if isinstance(expected, str):
        plain = rates(assemble(folder, setting))
        assert rates(assembly) == {**plain, expected: RATE} != plain
        return
    part, mark = expected
    names = {name for name, parameter in assembly.parts()[part].named_parameters() if parameter.requires_grad}
    if mark == "frozen":
        assert not names
        return
    assert names
    assert all(mark in name for name in names)
    everything = {name for name, _ in assembly.parts()[part].named_parameters()}
    wanted = {name for name in everything if mark in name}
    if setting == "adapters" and part == DECODER:
        wanted = {name for name in wanted if LORA_PARAMETER_MARK in name}
    assert names == wanted


def test_a_name_is_nearer_than_its_kind_and_an_own_connector_inherits_what_it_does_not_set(folder: Path) -> None:
    kinds = ["model.learning_rates={decoder: 0.1, encoders: 0.2, connectors: 0.3}"]
    assert rates(assemble(folder, "parts", *kinds)) == {DECODER: 0.1, ENCODER: 0.2, CONNECTOR: 0.3}
    nearer = [*kinds, "model.encoders.text.learning_rate=0.4", "model.connector.learning_rate=0.5"]
    assert rates(assemble(folder, "parts", *nearer)) == {DECODER: 0.1, ENCODER: 0.4, CONNECTOR: 0.5}
    own = [*nearer, "model.encoders.text.connector={kind: mlp}"]
    assert rates(assemble(folder, "parts", *own))[CONNECTOR] == 0.5
    assert rates(assemble(folder, "parts", *own, "model.encoders.text.connector.learning_rate=0.6"))[CONNECTOR] == 0.6
    assert CONNECTOR not in rates(assemble(folder, "parts", "model.encoders.text.connector={kind: mlp}",
                                           "model.connector.trains=none"))  # fmt: skip


@pytest.mark.parametrize(
    ("setting", "overrides", "key"),
    [
        ("parts", ["model.encoders.text.trains=none", "model.encoders.text.learning_rate=1e-3"],
         "model.encoders.text.learning_rate"),
        ("parts", ["model.trains.connectors=none", "model.connector.learning_rate=1e-3"],
         "model.connector.learning_rate"),
        ("parts", ["model.trains.decoder=none", "model.learning_rates.decoder=1e-3"], "model.learning_rates.decoder"),
        ("parts", ["model.encoders=null", "objective={name: causal}", "model.learning_rates.connectors=1e-3"],
         "model.learning_rates.connectors"),
        ("parts", ["model.trains={decoder: none, encoders: none, connectors: none}"], "model.trains"),
        ("checkpoint", ["model.trains={decoder: none, encoders: none, connectors: none}"], "model.trains"),
        ("checkpoint", ["model.encoders.vision.learning_rate=1e-3"], "model.encoders.vision"),
        ("checkpoint", ["model.connector={kind: mlp, learning_rate: 1e-3}"], "model.connector"),
        ("checkpoint", ["model.connector.kind=linear"], "model.connector"),
        ("checkpoint", ["model.encoders.text.connector={kind: stack, factor: 2}"], "model.encoders.text"),
        ("adapters", ["model.lora.learning_rate=1e-3", "model.decoder.learning_rate=1e-3"],
         "model.decoder.learning_rate"),
    ],
)  # fmt: skip
def test_bad_input_is_one_error_that_names_the_key(folder: Path, setting: str, overrides: list[str], key: str) -> None:
    assert key_of_error(folder, setting, *overrides) == key


def test_a_rate_of_a_part_that_the_checkpoint_froze(folder: Path, tmp_path: Path) -> None:
    assembly = assemble(folder, "parts", "model.encoders.text.trains=none")
    save_model(tmp_path / "model", assembly.model, assembly.decoder_tokenizer, assembly.processors)
    base = f"model.checkpoint={tmp_path / 'model'}"
    rate = "model.encoders.text.learning_rate=1e-3"
    assert key_of_error(folder, "checkpoint", base, rate) == "model.encoders.text.learning_rate"
    assert rates(assemble(folder, "checkpoint", base, rate, "model.encoders.text.trains=all"))[ENCODER] == 1e-3


def test_a_twin_without_encoders_may_leave_the_connector_of_its_recipe(folder: Path) -> None:
    twin = ["model.encoders=null", "objective={name: causal}", "model.connector.learning_rate=1e-3"]
    assert rates(assemble(folder, "parts", *twin)) == {DECODER: RUN_RATE}


def test_an_unknown_kind_of_connector_is_one_problem(folder: Path) -> None:
    assert key_of_error(folder, "parts", "model.connector={kind: stak, factor: 2}") == "model.connector.kind"
