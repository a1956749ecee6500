"""Reading files that are no lines - exports in JSON, CSV and Parquet - in batches of documents.

Such a file is closed: it is a source by its content, and its offsets count documents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from tasks.interactions.lines import Reject
from tasks.interactions.reading import Batch
from tasks.interactions.recipes import Recipe
from tasks.interactions.schema import Interaction, as_table

SUFFIXES: Final = (".json", ".csv", ".parquet")
"""What the names of such files end with, also with ``.gz`` behind it."""
BATCH_DOCUMENTS: Final = 20_000


def holds_documents(path: Path) -> bool:
    """Tell by its name whether a file holds documents rather than lines."""
    return path.name.removesuffix(".gz").endswith(SUFFIXES)


def document_identity(path: Path) -> str:
    """Return the name a file's offset is kept under: its path and a digest of its content."""
    with path.open("rb") as handle:
        return f"{path.resolve().as_posix()}@{hashlib.file_digest(handle, 'sha256').hexdigest()[:12]}"


def read_documents(path: Path, offset: int, recipe: Recipe, size: int = BATCH_DOCUMENTS) -> Iterator[Batch]:
    """Read a file of documents.

    Args:
        path: The file.
        offset: How many documents to pass over.
        recipe: How each is read.
        size: Most documents in a batch.

    Yields:
        Batches that follow each other without a gap.

    Raises:
        InputError: It is no Parquet file, or a JSON file that is too large to hold.
    """
    from tasks.interactions.sources.splitting import split

    documents = islice(split(path), offset, None)
    while some := list(islice(documents, size)):
        rows, rejects = list[Interaction](), list[Reject]()
        for ordinal, document in some:
            for found in recipe.parse(document, f"{path.resolve().as_posix()}#{ordinal}"):
                if isinstance(found, str):
                    rejects.append((ordinal, found, document))
                else:
                    rows.append(found)
        yield Batch(offset, offset + len(some), recipe.keep(as_table(rows)), tuple(rejects))
        offset += len(some)
