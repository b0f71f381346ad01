"""What a finished run leaves: an ordinary Hugging Face folder, its lineage and its card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from metalm_cli.config.schema.recipes import Recipe
from metalm_cli.models.assembly import Assembly
from metalm_cli.models.checkpoint_io import save_model
from metalm_cli.models.lora.adapter_files import save_adapter
from metalm_cli.models.lora.inject import LoraTargets
from metalm_cli.provenance.lineage import LINEAGE, make_lineage
from metalm_cli.runs.data_record import DataSource


def write_model(
    folder: Path,
    root: Any,
    assembly: Assembly,
    corpus: DataSource,
    recipe: Recipe,
    facts: dict[str, Any],
    ancestors: list[dict[str, Any]],
) -> None:
    """Write the trained model; of a run that trained adapters, those and its connectors.

    Args:
        folder: A new folder.
        root: The step module; a generator that trained beside the model is kept in ``generator/``.
        assembly: The model and its tokenizers.
        corpus: What it was trained on.
        recipe: How.
        facts: ``name``, ``recipe`` (YAML), ``steps``, ``tokens`` and validation metrics, for lineage and card.
        ancestors: The lineages that it goes on from.
    """
    if assembly.is_encoder_only:
        assembly.model.save_pretrained(folder)
        for processor in assembly.processors.values():
            processor.save_pretrained(folder)
        if hasattr(root, "generator"):
            root.generator.save_pretrained(folder / "generator")
    elif assembly.adaptation is not None:
        save_adapter(folder, assembly.parts(), assembly.adaptation)
    else:
        save_model(folder, assembly.model, assembly.decoder_tokenizer, assembly.processors)
    lineage = make_lineage(corpus, recipe, facts, ancestors)
    (folder / LINEAGE).write_text(json.dumps(lineage, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(model_card(assembly, lineage, facts), encoding="utf-8")


def model_card(assembly: Assembly, lineage: dict[str, Any], facts: dict[str, Any]) -> str:
    """The model's README: what it is, what it was trained on, how to load it, and the recipe."""
    adapted = "" if assembly.adaptation is None else f"\n\n{_adapted(assembly, assembly.adaptation)}"
    data = "\n".join(f"- {one['name']} ({one['kind']}: {one['location']})" for one in lineage["data"])
    metrics = "\n".join(f"| {key} | {value:.4f} |" for key, value in facts["validation"].items())
    load = how_to_load(assembly)
    return f"""---
library_name: transformers
tags: [metalm]
---

# {facts["name"]}

Trained with metalm {lineage["metalm"]} for {facts["steps"]:,} steps on {facts["tokens"]:,} source tokens.{adapted}

{part_table(assembly)}

## Data

{data}

## Held-out text

| metric | value |
|---|---|
{metrics}

## Use

```python
{load}
```

## Recipe

```yaml
{facts["recipe"].rstrip()}
```
"""


def _adapted(assembly: Assembly, adaptation: LoraTargets) -> str:
    """What a card says of adapters."""
    trained = sum(one.numel() for one in assembly.model.parameters() if one.requires_grad)
    base = adaptation.base
    return (
        f"This is no whole model: {adaptation} (`{base.checkpoint}`, weights of sha256 `{base.sha256}`). Of the "
        f"parameters below {trained:,} were trained, and are here. `metalm export --merge` makes a whole model."
    )


def part_table(assembly: Assembly) -> str:
    """The parts of a model as a table of a card."""
    rows = "\n".join(
        f"| `{name}` | {type(part).__name__} | {sum(one.numel() for one in part.parameters()):,} |"
        for name, part in assembly.parts().items()
    )
    return f"| part | class | parameters |\n|---|---|---|\n{rows}"


def how_to_load(assembly: Assembly) -> str:
    """Python that loads the model, for a card."""
    if assembly.is_encoder_only:
        return 'from transformers import AutoModel\n\nencoder = AutoModel.from_pretrained("path/to/this/folder")'
    if not assembly.processors and assembly.adaptation is None:
        return (
            "from transformers import AutoModelForCausalLM\n\n"
            'model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")'
        )
    return (
        "import metalm_cli as metalm\n\n"
        'model = metalm.load("path/to/this/folder")\n'
        f"session = metalm.Session([metalm.{_span(assembly)}])\n"
        "print(model.generate([session], max_new_tokens=20))"
    )


def _span(assembly: Assembly) -> str:
    text = '"It rained all day."'
    return f'Docked("text", {text})' if assembly.processors else f"Causal({text})"
