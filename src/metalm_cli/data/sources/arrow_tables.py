"""Tables of Arrow data: Parquet files, and folders that ``datasets`` saved with ``save_to_disk``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metalm_cli.common.cache import write_to_cache
from metalm_cli.data.sources.base import RandomAccessRows
from metalm_cli.data.sources.unpacked_files import UNPACKED, hold, remove_unused
from metalm_cli.errors import MetalmError

ROWS_PER_BATCH = 256
"""Rows per conversion from Arrow."""
SAVED_DATASET = "state.json"
"""File in the folder of a saved data set."""
SAVED_SPLITS = "dataset_dict.json"
"""File in the folder of a saved data set with several splits, each in a folder of its own."""


class ParquetRows(RandomAccessRows):
    """Rows of a Parquet file, read from an Arrow copy in the cache, which is mapped into memory. Picklable.

    Args:
        path: The file.
        sha256: Hash of its content.
        cache: Folder of the cache.

    Raises:
        MetalmError: The file is not a Parquet file, or is damaged.
    """

    def __init__(self, path: Path, sha256: str, cache: Path) -> None:
        self.path, self._copy = path, cache / UNPACKED / f"{sha256}.arrow"
        self._table: Any = None
        hold(self._copy, cache)
        if not self._copy.is_file():
            self._convert()
            remove_unused(cache)
        self._rows = self._open().num_rows

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_table": None}

    def _convert(self) -> None:
        import pyarrow
        from pyarrow import parquet

        try:
            file = parquet.ParquetFile(self.path, memory_map=True)
            with write_to_cache(self._copy) as out, pyarrow.ipc.new_file(out, file.schema_arrow) as writer:
                for batch in file.iter_batches():
                    writer.write_batch(batch)
        except (pyarrow.ArrowException, OSError) as error:
            raise MetalmError(
                "a Parquet file cannot be read",
                where=str(self.path),
                why=" ".join(str(error).split())[:300],
                remedy="download or write the file again",
            ) from error

    def _open(self) -> Any:
        if self._table is None:
            import pyarrow

            self._table = pyarrow.ipc.open_file(pyarrow.memory_map(str(self._copy))).read_all()
        return self._table

    @property
    def rows(self) -> int:
        return self._rows

    def load(self, row: int) -> Any:
        return self._open().slice(row, 1).to_pylist()[0]

    def scan(self, rows: range) -> Iterator[Any]:
        for start in range(rows.start, rows.stop, ROWS_PER_BATCH):
            yield from self._open().slice(start, min(ROWS_PER_BATCH, rows.stop - start)).to_pylist()

    def where(self, row: int) -> str:
        return f"{self.path}, row {row}"


class DatasetRows(RandomAccessRows):
    """Rows of an object of ``datasets``, mapped into memory.

    Args:
        dataset: The data set.
        name: Its name in locations.
    """

    def __init__(self, dataset: Any, name: str) -> None:
        self._dataset, self.name = dataset.with_format("arrow"), name

    @property
    def rows(self) -> int:
        return len(self._dataset)

    def load(self, row: int) -> Any:
        return self._dataset[row].to_pylist()[0]

    def where(self, row: int) -> str:
        return f"{self.name}, row {row}"

    def scan(self, rows: range) -> Iterator[Any]:
        for table in self._dataset.select(rows).iter(batch_size=ROWS_PER_BATCH):
            yield from table.to_pylist()

    def class_names(self) -> dict[str, list[str]]:
        """Class names of each column of class labels, in the order of their ids."""
        return class_names(self._dataset.features)


def class_names(features: Any) -> dict[str, list[str]]:
    """Class names of each column of class labels, in the order of their ids."""
    return {name: list(feature.names) for name, feature in features.items() if hasattr(feature, "names")}


def is_saved_dataset(folder: Path) -> bool:
    """Whether a folder was written by ``save_to_disk``."""
    return folder.is_dir() and any((folder / name).is_file() for name in (SAVED_DATASET, SAVED_SPLITS))


def saved_files(folder: Path, split: str) -> list[Path]:
    """Files with the rows of a split of a saved data set, in order of their names.

    Raises:
        MetalmError: The data set has several splits, and none of this name.
    """
    return sorted(_split_folder(folder, split).glob("*.arrow"))


def open_saved(folder: Path, split: str) -> DatasetRows:
    """Open a folder of ``save_to_disk``; the split matters only if the folder has several.

    Raises:
        MetalmError: The split does not exist, or the folder is damaged.
    """
    import datasets

    path = _split_folder(folder, split)
    try:
        return DatasetRows(datasets.load_from_disk(str(path)), str(path))
    except Exception as error:
        raise MetalmError(
            "a saved data set cannot be read",
            where=str(path),
            why=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
            remedy="save it again with save_to_disk",
        ) from error


def _split_folder(folder: Path, split: str) -> Path:
    if (folder / SAVED_DATASET).is_file():
        return folder
    if (folder / split / SAVED_DATASET).is_file():
        return folder / split
    names = sorted(path.parent.name for path in folder.glob(f"*/{SAVED_DATASET}"))
    raise MetalmError(
        f"a saved data set has no split {split}",
        where=str(folder),
        why=f"its splits are {', '.join(names) or 'none'}",
        remedy="name one of them: in a card in `splits`, else as the path FOLDER/SPLIT",
    )
