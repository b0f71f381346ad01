"""Names that metalm registers itself: for each kind, the target and a description by name."""

from __future__ import annotations

OBJECTIVES: dict[str, tuple[str, str]] = {}

METRICS: dict[str, tuple[str, str]] = {}

ENCODER_ADAPTERS: dict[str, tuple[str, str]] = {}

DATA_SOURCES: dict[str, tuple[str, str]] = {}

CONNECTORS: dict[str, tuple[str, str]] = {}

_AGGREGATES = "metalm_cli.evaluation.metrics.aggregates"
AGGREGATES: dict[str, tuple[str, str]] = {
    "mean_over_clusters": (f"{_AGGREGATES}:mean_over_clusters", "mean over clusters of the means over their tasks"),
    "mean_over_tasks": (f"{_AGGREGATES}:mean_over_tasks", "mean over tasks"),
    "metrics_then_tasks": (f"{_AGGREGATES}:metrics_then_tasks", "mean over tasks of the means over their metrics"),
    "chance_normalised": (f"{_AGGREGATES}:CHANCE_NORMALISED", "mean over tasks of scores from 0 (chance) to 100"),
    "weighted_by_examples": (f"{_AGGREGATES}:weighted_by_examples", "mean over tasks, weighted by their examples"),
}

_FAMILIES = "metalm_cli.models.families"
MODEL_FAMILIES: dict[str, tuple[str, str]] = {
    "decoder-only": (f"{_FAMILIES}.decoder_only:DecoderOnly", "causal decoders, with docked encoders or without"),
    "encoder-only": (f"{_FAMILIES}.encoder_only:EncoderOnly", "bidirectional text encoders (objectives mlm and rtd)"),
    "encoder-decoder": (f"{_FAMILIES}.encoder_decoder:EncoderDecoder", "encoder–decoders: T5, mT5, BART"),
}

TEMPLATE_IMPORTERS: dict[str, tuple[str, str]] = {}

CHECKPOINT_PACKAGES: dict[str, tuple[str, str]] = {}

_COMMANDS = "metalm_cli.cli.commands"

COMMANDS: dict[str, tuple[str, str]] = {
    "pretrain": (
        f"{_COMMANDS}.training.pretrain:pretrain",
        "Pretrain a MetaLM on documents, from encoder and decoder checkpoints or from scratch.",
    ),
    "finetune": (
        f"{_COMMANDS}.training.finetune:finetune",
        "Finetune a MetaLM or a causal language model on one or many tasks, as a whole or the encoder alone.",
    ),
    "instruct": (
        f"{_COMMANDS}.training.finetune:instruct",
        "Tune a model on instructions: many templates per task, whole clusters held out, overlap with them audited.",
    ),
    "evaluate": (
        f"{_COMMANDS}.evaluation.evaluate:evaluate",
        "Score models on tasks, and write the results with all settings that are needed to repeat them.",
    ),
    "eval": (f"{_COMMANDS}.evaluation.evaluate:evaluate", "Short name of evaluate."),
    "suites": (f"{_COMMANDS}.evaluation.suites:app", "List and show suites of tasks."),
    "results": (f"{_COMMANDS}.evaluation.results:app", "Show and compare result files."),
    "generate": (
        f"{_COMMANDS}.evaluation.generate:generate",
        "Generate an answer to a text, or to every line of a file.",
    ),
    "report": (
        f"{_COMMANDS}.evaluation.report:report",
        "Write a report of runs: curves, data, scores, answers, recipe and provenance, on one self-contained HTML "
        "page.",
    ),
    "show": (
        f"{_COMMANDS}.data.show:show",
        "Show sessions of a recipe as the model sees them: docked text, decoder text, predicted tokens.",
    ),
    "tasks": (f"{_COMMANDS}.data.tasks:app", "List, show, check and draft task cards."),
    "templates": (f"{_COMMANDS}.data.templates:app", "List, show, lint and import templates."),
    "data": (f"{_COMMANDS}.data.data:app", "Mirror hub data sets, list local data sets, clean up."),
    "export": (
        f"{_COMMANDS}.models.export:export",
        "Export a finished model or adapter as a plain Hugging Face folder, to disk or to the hub.",
    ),
    "demo": (
        f"{_COMMANDS}.project.demo:demo",
        "Run the whole program on the built-in miniature world, offline: about four minutes on two CPU cores.",
    ),
    "recipe": (f"{_COMMANDS}.project.recipe:app", "List, show, check and explain recipes."),
    "plugins": (
        f"{_COMMANDS}.project.plugins:plugins",
        "List what is registered by kind, with its origin, and the installed plug-ins.",
    ),
}
