"""Result of a finished run: a Hugging Face model folder with its lineage and model card."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import metalm_cli
from metalm_cli.common.checkpoints.local_paths import drop_path_keys, without_local_folders
from metalm_cli.common.markdown import code_block, code_span, escape_markdown
from metalm_cli.config.schema.recipes import Recipe
from metalm_cli.models.assembly import Assembly
from metalm_cli.models.families import DUAL_ENCODER
from metalm_cli.models.lora.adapter_files import save_adapter
from metalm_cli.models.lora.inject import merge
from metalm_cli.provenance.lineage import LINEAGE, all_ancestors, make_lineage
from metalm_cli.runs.data_record import DataSource
from metalm_cli.runs.dock_worth import dock_worth
from metalm_cli.runs.metrics_log import validation_losses
from metalm_cli.runs.part_changes import TITLE, PartChange, change_table
from metalm_cli.sessions import TextProcessor

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
INSTALL = f"""metalm {metalm_cli.__version__} or newer loads it; in a copy of its repository:

```sh
pip install .
```"""
"""How to install metalm, for a card."""
EMBED = """import metalm_cli as metalm

model = metalm.load("path/to/this/folder")
images, texts = model.embed_images(["photo.jpg"]), model.embed_texts(["A dog runs.", "A red car."])
print(images @ texts.T)  # cosine of each image and text"""
"""Code that embeds images and texts, for the card of a dual encoder."""
INSTALL_TRANSFORMERS = "```sh\npip install transformers torch\n```"


def write_model(
    folder: Path,
    extra_parts: Mapping[str, Any],
    assembly: Assembly,
    corpus: DataSource,
    recipe: Recipe,
    facts: dict[str, Any],
    ancestors: list[dict[str, Any]],
) -> None:
    """Write the trained model; for a run that trained adapters of a base on disk, only what trained.

    Adapters of a model that the run itself assembled are merged into its weights first.

    Args:
        folder: A new folder.
        extra_parts: Modules that trained besides the model, each saved in a folder of its name.
        assembly: The model and its tokenizers.
        corpus: The training data.
        recipe: The recipe.
        facts: ``name``, ``recipe`` (YAML), ``steps``, ``tokens`` and ``validation`` (the last validation record), for
            lineage and card.
        ancestors: Lineages of the base models.
    """
    if assembly.writes_adapter and assembly.lora_targets is not None:
        save_adapter(folder, assembly.parts(), assembly.lora_targets)
    else:
        if assembly.lora_targets is not None:
            merge(assembly.model)
        assembly.family.save(folder, assembly)
    for name, part in extra_parts.items():
        part.save_pretrained(folder / name)
    drop_path_keys(folder)
    lineage = make_lineage(corpus, recipe, facts, ancestors)
    (folder / LINEAGE).write_text(json.dumps(lineage, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(model_card(assembly, lineage, facts), encoding="utf-8")


def model_card(assembly: Assembly, lineage: dict[str, Any], facts: dict[str, Any]) -> str:
    """Write the model's README: its parts, training data, metrics, code to load it, and the recipe."""
    adapter_note = _adapter_note(assembly)
    sources = (f"{source['name']} ({source['kind']}: {source['location']})" for source in lineage["data"])
    data = "\n".join(f"- {escape_markdown(without_local_folders(source))}" for source in sources)
    losses = validation_losses(facts["validation"])
    metrics = "\n".join(f"| {escape_markdown(key)} | {value:.4f} |" for key, value in losses.items())
    worth = dock_worth(facts["validation"])
    docks = "" if worth is None else f"\n\n{worth.sentence()}"
    load = how_to_load(assembly)
    bases = base_models(lineage)
    return f"""{card_head(bases)}

# {escape_markdown(facts["name"])}

Trained with metalm {lineage["metalm"]} for {facts["steps"]:,} steps on {facts["tokens"]:,} source tokens.{adapter_note}

{part_table(assembly)}{checkpoint_list(lineage)}{moved_section(facts["changes"])}

## Data

{data}

## Held-out text

| metric | value |
|---|---|
{metrics}{docks}

## Use

{load}

## Licence

{licence_note(bases)}

## Recipe

{code_block(without_local_folders(facts["recipe"]), "yaml")}
"""


def card_head(bases: Sequence[str] = ()) -> str:
    """Metadata at the head of a card.

    Args:
        bases: Hub ids of the base models.
    """
    listed = f"\nbase_model: [{', '.join(bases)}]" if bases else ""
    return f"---\nlibrary_name: transformers\ntags: [metalm]{listed}\n---"


def base_models(lineage: Mapping[str, Any]) -> list[str]:
    """Hub ids of the checkpoints that the model, or an ancestor of it, started from."""
    # Local checkpoints have no origin, and their names may look like hub ids: runs/first.
    outside = [
        entry
        for entry in all_ancestors(lineage.get("ancestors") or [])
        if entry.get("origin") and not entry.get("lineage")
    ]
    names = dict.fromkeys(str(entry.get("checkpoint")) for entry in outside)
    return [name for name in names if HUB_ID.fullmatch(name)]


def licence_note(bases: Sequence[str]) -> str:
    """What a card says on the licence of the model."""
    parts = f"the base models ({', '.join(map(code_span, bases))}) and the data" if bases else "the data"
    return (
        f"No licence is stated yet. The licences of {parts} apply to this model as well; state that of the "
        "model as `license:` at the head of this card."
    )


def _adapter_note(assembly: Assembly) -> str:
    """Paragraph of a card about adapters; empty without any."""
    adaptation = assembly.lora_targets
    if adaptation is None:
        return ""
    base = adaptation.result_base
    if base is None:
        return f"\n\n{escape_markdown(str(adaptation))}; they are merged into the weights."
    trained = sum(parameter.numel() for parameter in assembly.model.parameters() if parameter.requires_grad)
    return (
        f"\n\nThis is not a complete model: {escape_markdown(str(adaptation))} "
        f"({code_span(without_local_folders(base.checkpoint))}, weights "
        f"of sha256 `{base.sha256}`). This folder holds the {trained:,} trained parameters. `metalm export --merge` "
        "makes a complete model."
    )


def checkpoint_list(lineage: Mapping[str, Any]) -> str:
    """Markdown list of the checkpoints from outside that the model or an ancestor started from; empty without any."""
    lines = [
        f"- {escape_markdown(str(ancestor.get('part')))}: "
        f"{code_span(without_local_folders(str(ancestor.get('checkpoint'))))}, "
        f"{escape_markdown(str(ancestor['description']))}"
        for ancestor in all_ancestors(lineage["ancestors"])
        if ancestor.get("description")
    ]
    return "\n\nStarted from:\n\n" + "\n".join(lines) if lines else ""


def moved_section(changes: Mapping[str, PartChange]) -> str:
    """Section of a card on the change of each part; empty if it is not known."""
    table = change_table({"": changes})
    return "" if table is None else f"\n\n## {TITLE}\n\n{table.note}\n\n{table.to_markdown(escape_markdown)}"


def part_table(assembly: Assembly) -> str:
    """Markdown table of a model's parts, for a card."""
    rows = "\n".join(
        f"| {code_span(name)} | {type(part).__name__} | {sum(parameter.numel() for parameter in part.parameters()):,} |"
        for name, part in assembly.parts().items()
    )
    return f"| part | class | parameters |\n|---|---|---|\n{rows}"


def how_to_load(assembly: Assembly) -> str:
    """How to install what loads the model, and the code that loads it, for a card."""
    family = assembly.family
    if family.name == DUAL_ENCODER:
        return f"{INSTALL}\n\n```python\n{EMBED}\n```"
    if not family.generates or (not assembly.processors and not assembly.writes_adapter):
        name = "model" if family.generates else "encoder"
        auto = family.auto_class
        code = f'from transformers import {auto}\n\n{name} = {auto}.from_pretrained("path/to/this/folder")'
        return f"{INSTALL_TRANSFORMERS}\n\n```python\n{code}\n```"
    code = (
        "import metalm_cli as metalm\n\n"
        'model = metalm.load("path/to/this/folder")\n'
        f"session = metalm.Session([metalm.{_span(assembly)}])\n"
        "print(model.generate([session], max_new_tokens=20))"
    )
    return f"{INSTALL}\n\n```python\n{code}\n```"


def _span(assembly: Assembly) -> str:
    text = '"It rained all day."'
    names = [name for name, processor in assembly.processors.items() if isinstance(processor, TextProcessor)]
    name = "text" if "text" in names or not names else names[0]
    return f'Docked("{name}", {text})' if assembly.processors else f"Causal({text})"


def standalone_section(folder: Path) -> str:
    """Section of a card about loading a standalone export without metalm.

    Args:
        folder: Folder of the export.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    autos = {
        name: "AutoImageProcessor" if docking["kind"] == "vision" else "AutoTokenizer"
        for name, docking in config["docking"].items()
    }
    classes = ", ".join(sorted({"AutoModelForCausalLM", "AutoTokenizer", *autos.values()}))
    processors = "\n".join(
        f'    "{name}": {auto}.from_pretrained(folder, subfolder="processors/{name}"),' for name, auto in autos.items()
    )
    name, auto = next(iter(autos.items()))
    content = 'Image.open("photo.jpg")' if auto == "AutoImageProcessor" else '"It rained all day."'
    picture = "from PIL import Image\n" if auto == "AutoImageProcessor" else ""
    return f"""## Use without metalm

transformers alone loads this folder; it runs `modeling_metalm.py`, whose head describes sessions:

{INSTALL_TRANSFORMERS}

```python
{picture}from transformers import {classes}

folder = "path/to/this/folder"
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
processors = {{
{processors}
}}
inputs = model.prepare([[("{name}", {content})]], tokenizer, processors)
print(tokenizer.batch_decode(model.generate(**inputs, max_new_tokens=20), skip_special_tokens=True))
```"""


def part_card(part: str, auto_class: str, bases: Sequence[str] = ()) -> str:
    """Card of a part that was exported as a model of its own.

    Args:
        part: ``decoder`` or ``encoders.NAME``.
        auto_class: Name of the Auto class of transformers that loads it.
        bases: Hub ids of the base models of the whole model.
    """
    return f"""{card_head(bases)}

# {escape_markdown(part)}

The part {code_span(part)} of a MetaLM, trained with metalm and exported alone, in fp32.

{INSTALL_TRANSFORMERS}

```python
from transformers import {auto_class}

model = {auto_class}.from_pretrained("path/to/this/folder")
```

## Licence

{licence_note(bases)}
"""
