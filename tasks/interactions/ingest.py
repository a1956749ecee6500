"""Log files into the lake: every complete line once, whatever was killed, repeated or run twice."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from tasks.errors import InputError, NotFoundError
from tasks.interactions import gate as gates
from tasks.interactions.content import POLICIES
from tasks.interactions.counts import Ingested, SourceCount, contents_of
from tasks.interactions.documents import document_identity, holds_documents, read_documents
from tasks.interactions.gate import Before, GatePolicy
from tasks.interactions.lines import AUTO, Policy
from tasks.interactions.reading import Batch, file_identity, read_batches, total_bytes
from tasks.interactions.recipes import Recipe
from tasks.interactions.schema import rejected_table
from tasks.settings import Settings
from tasks.stores.lake import Lake
from tasks.stores.lake_ids import Hashes, hash_ids
from tasks.stores.lake_side import SetAside, aside_id

Progress = Callable[[Path, int], None]
"""Told of a file and how many of its bytes have been stored, after each batch."""
_LINES = re.compile(r".+\.jsonl(\.\d+)?(\.gz)?")
_NATIVE = Recipe()
_GATE = GatePolicy()
_NO_GATE = GatePolicy(enabled=False)
_BEFORE_DAYS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """How files are to be taken in.

    Attributes:
        recipe: How their lines are read, and what is kept of them.
        final: They are closed: a last line without an end counts.
        dry_run: Nothing is stored.
        gate: What must hold of a batch; one that fails is set aside.
        pages: Where the Data Docs of such a batch go; None writes none.
    """

    recipe: Recipe = _NATIVE
    final: bool = False
    dry_run: bool = False
    gate: GatePolicy = _NO_GATE
    pages: Path | None = None


def make_job(
    where: Settings,
    *,
    application: str | None = None,
    form: str = AUTO,
    mapping: Path | None = None,
    content: Policy | None = None,
    redact: bool | None = None,
    final: bool = False,
    dry_run: bool = False,
    gate: GatePolicy = _GATE,
) -> Job:
    """Return how files are taken in that somebody names, be it in the flow or in a shell.

    Args:
        where: What holds where nothing else is said.
        application: Of calls whose log does not say it.
        form: Name of the format, or ``auto``.
        mapping: A file that says which column holds what.
        content: What is kept of texts; None: by the settings.
        redact: Take personal data and secrets out of them; None: by the settings.
        final: The files are closed: a last line without an end counts.
        dry_run: Nothing is stored.
        gate: What must hold of a batch.

    Raises:
        InputError: The format, the mapping or what is to be kept cannot be used.
    """
    from tasks.interactions.redaction import make_redactor
    from tasks.interactions.sources.mapping import read_mapping

    if mapping is not None and form not in {AUTO, "mapped"}:
        raise InputError.of("format", form, "mapped, where a mapping file is given")
    if content is not None and content not in POLICIES:
        raise InputError.of("content", content, POLICIES)
    read = read_mapping(mapping) if mapping is not None else None
    recipe = Recipe(
        form="mapped" if read is not None else form,
        application=application,
        content=content or where.content,
        mapping=read,
        redactor=make_redactor() if (where.redact if redact is None else redact) else None,
    )
    return Job(recipe=recipe, final=final, dry_run=dry_run, gate=gate, pages=where.state_dir.absolute() / "data-docs")


def standing_job(where: Settings) -> Job:
    """Return how an application's own logs are taken in, whoever does it first: of any format, by the settings."""
    from tasks.interactions.redaction import make_redactor

    redactor = make_redactor() if where.redact else None
    return Job(recipe=Recipe(form=AUTO, content=where.content, redactor=redactor))


def find_logs(place: Path, *, documents: bool = False) -> tuple[Path, ...]:
    """Return a log file, or every ``*.jsonl`` under a folder, also rotated or packed ones, in the order of their paths.

    Args:
        place: A file or a folder.
        documents: Take files of JSON, CSV and Parquet out of the folder, too.

    Raises:
        NotFoundError: The path names nothing.
    """
    if place.is_file():
        return (place,)
    if not place.is_dir():
        raise NotFoundError(f"{place} is neither a file nor a folder; give one that holds *.jsonl")
    found = (path for path in place.rglob("*") if path.is_file())
    return tuple(sorted(path for path in found if _LINES.fullmatch(path.name) or (documents and holds_documents(path))))


def ingest_folder(
    lake: Lake, folder: Path, now: datetime, progress: Progress | None = None, job: Job | None = None
) -> Ingested:
    """Store what every log under a folder holds beyond what is stored; a missing folder holds nothing.

    Args:
        lake: Where to.
        folder: Where from.
        now: When the lines were seen.
        progress: Told after each batch.
        job: How; by default lines of the log's own format, without a gate.
    """
    sources = {path: source_of(path) for path in (find_logs(folder) if folder.exists() else ())}
    offsets = lake.offsets(sources.values())
    # A file of which every byte is stored costs nothing more: most of them are closed for good.
    return Ingested(
        tuple(
            ingest_file(lake, path, now, progress, job) if total_bytes(path) != offsets[source] else SourceCount(path)
            for path, source in sources.items()
        )
    )


def ingest_file(
    lake: Lake, path: Path, now: datetime, progress: Progress | None = None, job: Job | None = None
) -> SourceCount:
    """Store what a log file holds beyond what is stored.

    Lines that another writer stores meanwhile are in that writer's count.

    Raises:
        ConflictError: Other writers were faster every time.
    """
    job, counted = job or Job(), SourceCount(path)
    work = _Work(lake, path, source_of(path), now, job)
    while True:
        expected = lake.offset(work.source)
        # A file shorter than what was read of it was written anew: its ids tell what is stored already.
        begin = expected if holds_documents(path) or expected <= total_bytes(path) else 0
        for batch in _read(path, begin, job):
            taken = work.preview(batch) if job.dry_run else work.store(batch, expected)
            if taken is None:
                break
            expected, counted = batch.end, counted.plus(taken)
            if progress:
                progress(path, batch.end)
        else:
            return counted


def source_of(path: Path) -> str:
    """Return the name a file's offset is kept under."""
    return document_identity(path) if holds_documents(path) else file_identity(path)


def _read(path: Path, begin: int, job: Job) -> Iterator[Batch]:
    if holds_documents(path):
        return read_documents(path, begin, job.recipe)
    return read_batches(path, begin, final=job.final, reader=job.recipe.reader(path.resolve().as_posix()))


@dataclass
class _Work:
    """One file on its way into the lake."""

    lake: Lake
    path: Path
    source: str
    now: datetime
    job: Job
    _seen: Hashes | None = None
    _before: Before | None = None

    def store(self, batch: Batch, expected: int) -> SourceCount | None:
        """Store a batch, or set it aside; return None where another writer stored it first."""
        aside = self._judge(batch)
        appended = self.lake.append(
            self.source,
            expected=expected,
            offset=batch.end,
            interactions=batch.interactions,
            rejected=rejected_table(self.source, self.job.recipe.kept_rejects(batch.rejects), self.now),
            feedback=batch.feedback,
            aside=aside,
        )
        if appended is None:
            return None
        counts = (batch.read, appended.stored, appended.duplicates, appended.rejected, appended.set_aside)
        return SourceCount(self.path, *counts, ((aside.aside_id, aside.reasons),) if aside else ())

    def preview(self, batch: Batch) -> SourceCount:
        """Return what storing a batch would come to."""
        rows = self.lake.not_stored(batch.interactions)
        hashes = hash_ids(rows["interaction_id"])
        if self._seen is not None:
            rows = rows.filter(pa.array(~np.isin(hashes, self._seen)))
        self._seen = hashes if self._seen is None else np.union1d(self._seen, hashes)
        fresh, rejected, words = rows.num_rows, len(batch.rejects), batch.feedback.num_rows
        duplicates = batch.interactions.num_rows - fresh
        aside = self._judge(batch, write=False)
        held = batch.interactions.num_rows if aside else 0
        if aside:
            return SourceCount(
                self.path, batch.read, words, 0, rejected + held, held, ((aside.aside_id, aside.reasons),)
            )
        return SourceCount(self.path, batch.read, fresh + words, duplicates, rejected, contents=contents_of(rows))

    def _judge(self, batch: Batch, *, write: bool = True) -> SetAside | None:
        """Return why a batch is not to be trusted; None where it is."""
        rows, policy = batch.interactions, self.job.gate
        if not policy.enabled or rows.num_rows == 0 or batch.read < policy.least_rows:
            return None
        numbers = gates.measure(rows, len(batch.rejects), policy, self._days_before(rows), self.now)
        found = gates.check(numbers, policy)
        if found.success:
            return None
        name = aside_id(self.source, batch.start, batch.end, rows)
        report = self._write_page(name, found.page) if write else None
        return SetAside(
            aside_id=name,
            file=self.source,
            start_byte=batch.start,
            end_byte=batch.end,
            rows=rows.num_rows,
            reasons=found.failures,
            report=report,
            seen=self.now,
        )

    def _write_page(self, name: str, page: str) -> str | None:
        if self.job.pages is None:
            return None
        self.job.pages.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.job.pages / f"{name}.html").write_text(page, encoding="utf-8")
        return f"{name}.html"

    def _days_before(self, rows: pa.Table) -> Before:
        """Return the share of NULL in the days before the file's first batch, of the same source and application."""
        if self._before is None:
            first = min(rows["date_utc"].unique().to_pylist())
            where = {name: rows[name][0].as_py() for name in ("application", "source")}
            found = self.lake.null_shares(gates.WATCHED, first - timedelta(days=_BEFORE_DAYS), first, where)
            self._before = Before(*found)
        return self._before
