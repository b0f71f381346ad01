"""Writing of exports that load without metalm: a standalone MetaLM, and a part as a model of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from metalm_cli.common import registry
from metalm_cli.errors import MetalmError
from metalm_cli.models.checkpoint_checks.config_files import CONFIG, GENERATION_CONFIG
from metalm_cli.models.checkpoint_io import LoadedModel, save_model
from metalm_cli.models.dual_encoder.dual_encoder import DualEncoderConfig
from metalm_cli.models.encoders import load_tokenizer
from metalm_cli.models.metalm import MetaLM, MetaLMConfig
from metalm_cli.sessions import DecoderTokenizer, TokenRules

MODELING_FILE = "modeling_metalm.py"
AUTO_MAP = {"AutoConfig": "modeling_metalm.MetaLMConfig", "AutoModelForCausalLM": "modeling_metalm.MetaLM"}
"""Classes of the modelling file by Auto class, as ``config.json`` of a standalone export names them."""
CONNECTORS = ("linear", "mlp", "stack", "mean", "queries")
"""Connectors that the modelling file has."""

FLAT_PATCHES = ("siglip2_vision_model",)
"""Encoders that read patches in place of images."""


def check_standalone(folder: Path) -> None:
    """Check that the modelling file can compute a model.

    Args:
        folder: Folder of the model.

    Raises:
        MetalmError: The model needs no modelling file, or has a part that the file does not have.
    """
    config = _read(folder / CONFIG)
    if config.get("model_type") != MetaLMConfig.model_type:
        check_known(config, "the model", folder, "leave out --standalone, and `import metalm_cli.auto` before loading")
        raise MetalmError(
            "the model needs no modelling file",
            where=str(folder),
            why=f"it has no docked encoders; transformers itself loads models of type {config.get('model_type')}",
            remedy="leave out --standalone",
        )
    remedy = "export it without --standalone; where metalm is installed, `import metalm_cli.auto` before loading"
    check_known(config["decoder_config"], "the decoder", folder, remedy)
    for name, encoder_config in config["encoder_configs"].items():
        check_known(encoder_config, f"the encoder {name!r}", folder, remedy)
        kind, adapter = config["connectors"][name]["kind"], config["docking"][name].get("adapter")
        if kind not in CONNECTORS or registry.connectors.entry(kind).origin != registry.BUILT_IN:
            raise _plugin_part(f"the connector {kind}", folder, remedy)
        if adapter not in (None, "text", "vision"):
            raise _plugin_part(f"the encoder adapter {adapter}", folder, remedy)
        if config["docking"][name]["kind"] not in ("text", "vision") or encoder_config["model_type"] in FLAT_PATCHES:
            raise MetalmError(
                f"the modelling file does not read images as the encoder {name!r} does",
                where=str(folder),
                why=f"it is of type {encoder_config['model_type']}",
                remedy=remedy,
            )


def _plugin_part(what: str, folder: Path, remedy: str) -> MetalmError:
    return MetalmError(
        f"{what} is not in the modelling file", where=str(folder), why="it is from a plug-in", remedy=remedy
    )


def check_known(config: dict[str, Any], what: str, where: object, remedy: str) -> None:
    """Check that transformers has the model type of a part.

    Raises:
        MetalmError: It is a type of metalm, or of code in the checkpoint.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    model_type = config.get("model_type")
    if model_type not in CONFIG_MAPPING_NAMES:
        raise MetalmError(
            f"{what} does not load without metalm",
            where=str(where),
            why=f"transformers has no models of type {model_type}",
            remedy=remedy,
        )


def write_standalone(folder: Path) -> None:
    """Add the modelling file to the folder of a MetaLM, with its entry in ``config.json`` and a generation config."""
    shutil.copyfile(Path(__file__).with_name(MODELING_FILE), folder / MODELING_FILE)
    config = _read(folder / CONFIG)
    tokenizer = DecoderTokenizer(load_tokenizer(folder), TokenRules(**config["tokens"]))
    _write(folder / CONFIG, {**config, "auto_map": AUTO_MAP})
    generation_config(tokenizer).save_pretrained(folder)


def drop_modeling_file(folder: Path) -> None:
    """Remove what :func:`write_standalone` added to the config of a MetaLM, if it did."""
    path = folder / CONFIG
    config = _read(path) if path.is_file() else {}
    if config.get("model_type") == MetaLMConfig.model_type and config.pop("auto_map", None) is not None:
        _write(path, config)
        (folder / GENERATION_CONFIG).unlink(missing_ok=True)


def generation_config(tokenizer: DecoderTokenizer) -> Any:
    """Return a config of ``generate`` for greedy decoding up to the token that ends a document."""
    from transformers import GenerationConfig

    return GenerationConfig(
        bos_token_id=tokenizer.start_id, eos_token_id=tokenizer.document_end_id, pad_token_id=tokenizer.pad_id
    )


def check_part(folder: Path, part: str) -> None:
    """Check that a model has a part that transformers loads.

    Args:
        folder: Folder of the model.
        part: ``decoder`` or ``encoders.NAME``.

    Raises:
        MetalmError: The model has no such part, or transformers does not have its model type.
    """
    config = _read(folder / CONFIG)
    if config.get("model_type") in (MetaLMConfig.model_type, DualEncoderConfig.model_type):
        parts = {"decoder": config["decoder_config"]} if "decoder_config" in config else {}
        parts |= {f"encoders.{name}": fields for name, fields in config["encoder_configs"].items()}
    else:
        parts = {} if config.get("is_encoder_decoder") else {"decoder": config}
    if part not in parts:
        raise MetalmError(
            f"the model has no part {part!r}",
            where=str(folder),
            why=f"parts of the model: {', '.join(parts) or 'none'}",
            remedy="name one of its parts, or export the whole model without --part",
        )
    remedy = "export the whole model; where metalm is installed, `import metalm_cli.auto` before loading"
    check_known(parts[part], f"the part {part}", folder, remedy)


def write_part(target: Path, loaded: LoadedModel, part: str) -> str:
    """Save the decoder or an encoder of a MetaLM as a model of its own, with its tokenizer or image processor.

    Args:
        target: A new folder.
        loaded: Model, tokenizer and processors.
        part: ``decoder`` or ``encoders.NAME`` (:func:`check_part`).

    Returns:
        Name of the Auto class of transformers that loads the part.
    """
    model, tokenizer, processors = loaded
    if part == "decoder":
        training = {name: options for name, options in model.config.training.items() if name == part}
        config = MetaLMConfig(
            decoder_config=model.decoder.config.to_dict(), tokens=tokenizer.rules.to_dict(), training=training
        )
        model.decoder.generation_config = generation_config(tokenizer)
        save_model(target, MetaLM(config, model.decoder, {}), tokenizer, {})
        return "AutoModelForCausalLM"
    name = part.removeprefix("encoders.")
    encoder = model.encoders[name]
    encoder.save_pretrained(target)
    processors[name].save_pretrained(target)
    return model.encoder_ios[name].load_class(encoder.config).__name__


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
