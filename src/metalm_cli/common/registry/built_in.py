"""Names that metalm registers itself: for each kind, the target and a description by name."""

from __future__ import annotations

OBJECTIVES: dict[str, tuple[str, str]] = {
    "semi_causal": (
        "metalm_cli.objectives.language:LanguageObjective",
        "semi-causal language modelling: random spans are docked",
    ),
    "causal": ("metalm_cli.objectives.language:LanguageObjective", "causal language modelling"),
    "prefix": (
        "metalm_cli.objectives.language:LanguageObjective",
        "prefix language modelling: the beginning of each document is docked",
    ),
    "reconstruct": (
        "metalm_cli.objectives.reconstruction:ReconstructionObjective",
        "reconstruction: docked texts are predicted again after a mark",
    ),
    "mixed": (
        "metalm_cli.objectives.reconstruction:MixedObjective",
        "continuation of some documents, reconstruction of others",
    ),
    "mlm": ("metalm_cli.objectives.masked_lm:MaskedLMObjective", "masked language modelling of a single encoder"),
    "rtd": (
        "metalm_cli.objectives.replaced_token_detection:ReplacedTokenObjective",
        "replaced token detection of a single encoder",
    ),
}

_METRICS = "metalm_cli.evaluation.metrics"

METRICS: dict[str, tuple[str, str]] = {
    "accuracy": (f"{_METRICS}.text_metrics:equal_text", "equal texts; for options, the right one"),
    "exact_match": (f"{_METRICS}.text_metrics:exact_match", "equal words, with signs and symbols"),
    "token_f1": (f"{_METRICS}.text_metrics:token_f1", "F1 of the words, with signs and symbols"),
    "squad_em": (f"{_METRICS}.text_metrics:squad_em", "exact match of SQuAD"),
    "squad_f1": (f"{_METRICS}.text_metrics:squad_f1", "F1 of SQuAD"),
    "squad_v2_em": (f"{_METRICS}.text_metrics:squad_v2_em", "exact match of SQuAD 2.0"),
    "squad_v2_f1": (f"{_METRICS}.text_metrics:squad_v2_f1", "F1 of SQuAD 2.0"),
    "trivia_em": (f"{_METRICS}.text_metrics:trivia_em", "exact match of TriviaQA"),
    "trivia_f1": (f"{_METRICS}.text_metrics:trivia_f1", "F1 of TriviaQA"),
    "drop_em": (f"{_METRICS}.text_metrics:drop_em", "exact match of DROP"),
    "drop_f1": (f"{_METRICS}.text_metrics:drop_f1", "F1 of DROP"),
    "f1": (f"{_METRICS}.class_metrics:f1", "F1 of class 1 over the split"),
    "macro_f1": (f"{_METRICS}.class_metrics:macro_f1", "mean F1 of the classes over the split"),
    "matthews": (f"{_METRICS}.class_metrics:matthews", "Matthews' correlation over the split"),
    "multirc_f1": (f"{_METRICS}.class_metrics:multirc_f1", "F1 over all candidates of MultiRC"),
    "multirc_em": (f"{_METRICS}.class_metrics:multirc_em", "share of MultiRC's questions without a wrong candidate"),
    "pearson": (f"{_METRICS}.task_metrics:pearson", "Pearson's correlation over the split"),
    "spearman": (f"{_METRICS}.task_metrics:spearman", "Spearman's correlation over the split"),
    "rouge1": (f"{_METRICS}.text_metrics:rouge1", "ROUGE-1 F1, without stemming"),
    "rouge2": (f"{_METRICS}.text_metrics:rouge2", "ROUGE-2 F1, without stemming"),
    "rougeL": (f"{_METRICS}.text_metrics:rougeL", "ROUGE-L F1, without stemming"),
    "super_ni_em": (f"{_METRICS}.text_metrics:super_ni_em", "exact match of Super-NaturalInstructions"),
    "super_ni_rougeL": (f"{_METRICS}.text_metrics:super_ni_rouge", "ROUGE-L of Super-NaturalInstructions"),
    "bleu": (f"{_METRICS}.corpus_metrics:bleu", "BLEU of sacrebleu over the split"),
    "chrf": (f"{_METRICS}.corpus_metrics:chrf", "chrF2 of sacrebleu over the split"),
    "vqa_accuracy": (f"{_METRICS}.vqa:vqa_accuracy", "VQA accuracy: agreement with ten people"),
    "coco_bleu4": (f"{_METRICS}.caption_metrics:bleu4", "BLEU-4 of COCO captions over the split"),
    "coco_rougeL": (f"{_METRICS}.caption_metrics:rouge_l", "ROUGE-L of COCO captions"),
    "cider": (f"{_METRICS}.caption_metrics:cider", "CIDEr-D of COCO captions"),
    "number": (f"{_METRICS}.text_metrics:equal_number", "equal last numbers"),
    "s1": (f"{_METRICS}.text_metrics:listed_s1", "S1 of CLUES, for lists"),
}

ENCODER_ADAPTERS: dict[str, tuple[str, str]] = {
    "text": ("metalm_cli.models.encoders:TextEncoderIO", "text encoders: content tokens are docked"),
    "vision": ("metalm_cli.models.images.encoder_io:VisionEncoderIO", "vision transformers: patches are docked"),
    "fused": (
        "metalm_cli.models.images.fused_io:FusedEncoderIO",
        "encoders of an image with a text (ViLT, ...)",
    ),
}

DATA_SOURCES: dict[str, tuple[str, str]] = {
    "hub": ("metalm_cli.data.sources.openers:open_hub", "hub data sets, or their local copies"),
    "path": ("metalm_cli.data.sources.openers:open_path", "local JSONL files"),
    "world": ("metalm_cli.data.sources.openers:open_world", "documents of the miniature world"),
}

_COMPRESSING, _POSITIONS = "metalm_cli.models.compressing_connectors", "metalm_cli.sessions.compression"
CONNECTORS: dict[str, tuple[str, ...]] = {
    "linear": ("metalm_cli.models.connectors:linear_connector", "a single projection"),
    "mlp": ("metalm_cli.models.connectors:mlp_connector", "several layers with GELU in between"),
    "stack": (
        f"{_COMPRESSING}:stack_connector",
        "neighbouring outputs joined, then projected",
        f"{_POSITIONS}:group_positions",
    ),
    "mean": (
        f"{_COMPRESSING}:mean_connector",
        "neighbouring outputs averaged, then projected",
        f"{_POSITIONS}:group_positions",
    ),
    "queries": (
        f"{_COMPRESSING}:query_connector",
        "learned vectors that attend to the outputs",
        f"{_POSITIONS}:query_positions",
    ),
}

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
    "dual-encoder": (
        f"{_FAMILIES}.dual_encoder:DualEncoderFamily",
        "an image encoder and a text encoder that embed into one space (objective contrastive)",
    ),
    "encoder-decoder": (f"{_FAMILIES}.encoder_decoder:EncoderDecoder", "encoder–decoders: T5, mT5, BART"),
}

TEMPLATE_IMPORTERS: dict[str, tuple[str, str]] = {
    "flan": ("metalm_cli.templates.importers.flan:IMPORTER", "FLAN's templates.py"),
    "promptsource": (
        "metalm_cli.templates.importers.promptsource:IMPORTER",
        "promptsource's templates.yaml, or a folder of such files",
    ),
    "natural-instructions": (
        "metalm_cli.templates.importers.natural_instructions:IMPORTER",
        "a task's JSON, or a folder of such files",
    ),
}

CHECKPOINT_PACKAGES: dict[str, tuple[str, str]] = {
    "all-minilm-l6-v2": (
        "metalm_cli.common.checkpoints.package_table:MINILM",
        "sentence-transformers/all-MiniLM-L6-v2, a text encoder",
    ),
    "smollm2-135m-instruct-q4_1": (
        "metalm_cli.common.checkpoints.package_table:SMOLLM2",
        "SmolLM2-135M-Instruct, a decoder, quantised to Q4_1",
    ),
}

_COMMANDS = "metalm_cli.cli.commands"

COMMANDS: dict[str, tuple[str, str]] = {
    "pretrain": (
        f"{_COMMANDS}.training.pretrain:pretrain",
        "Pretrain a MetaLM on documents, from encoder and decoder checkpoints or from scratch.",
    ),
    "finetune": (
        f"{_COMMANDS}.training.finetune:finetune",
        "Finetune a MetaLM, a decoder or an encoder–decoder on one or many tasks, or an encoder alone.",
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
        "Export finished models or adapters as a plain Hugging Face folder, to disk or to the hub.",
    ),
    "demo": (
        f"{_COMMANDS}.project.demo:demo",
        "Run the whole program on data that it generates, offline: about five minutes on two CPU cores.",
    ),
    "reproduce": (
        f"{_COMMANDS}.project.reproduce:reproduce",
        "Reproduce an experiment of the paper: train all arms, test the claims, and write a page with the verdicts.",
    ),
    "recipe": (f"{_COMMANDS}.project.recipe:app", "List, show, check and explain recipes."),
    "plugins": (
        f"{_COMMANDS}.project.plugins:plugins",
        "List what is registered by kind, with its origin, and the installed plug-ins.",
    ),
}
