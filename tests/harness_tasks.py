"""lm_eval's own tasks over local files: only the source of the rows is changed."""

from __future__ import annotations

import gzip
from itertools import islice
from pathlib import Path
from typing import Any

TASKS = {
    "hellaswag": ("hellaswag/hellaswag.yaml", "hellaswag"),
    "arc_easy": ("arc/arc_easy.yaml", "arc_easy"),
    "piqa": ("piqa/piqa.yaml", "piqa"),
    "boolq": ("super_glue/boolq/default.yaml", "boolq"),
    "copa": ("super_glue/copa/default.yaml", "copa"),
    "rte": ("glue/rte/default.yaml", "rte"),
    "cb": ("super_glue/cb/default.yaml", "cb"),
}
"""Task file inside lm_eval and folder of the rows, for each task."""


def write_task(name: str, folder: Path, data_root: Path, rows: int = 40, **changes: Any) -> str:
    """Write a task file that includes lm_eval's own.

    Args:
        name: One of :data:`TASKS`.
        folder: Folder for the task file.
        data_root: Folder of the rows.
        rows: Number of rows of each split, from the beginning.
        changes: Further keys of the task.

    Returns:
        The name of the task, with the prefix ``local_``.
    """
    import lm_eval.tasks
    import yaml

    file, source = TASKS[name]
    files = {}
    for path in sorted((data_root / source).glob("*.jsonl.gz")):
        split = path.name.partition(".")[0]
        rows_file = folder / f"{name}-{split}.jsonl"
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            rows_file.write_text("".join(islice(lines, rows)), encoding="utf-8")
        files[split] = str(rows_file)
    task_config = {
        "include": str(Path(lm_eval.tasks.__file__).parent / file),
        "task": f"local_{name}",
        "tag": None,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "cache")},
        "validation_split": "validation" if "validation" in files else None,
        **changes,
    }
    (folder / f"local_{name}.yaml").write_text(yaml.safe_dump(task_config, sort_keys=False), encoding="utf-8")
    return f"local_{name}"
