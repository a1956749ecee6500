"""Pages of example interactions: files of the state folder, beside the lake, that show texts of users.

The nightly evaluation writes one a window, where a setting allows it. What the lake may no longer keep goes from them
as well. A page is deleted as a whole: the evaluation of its window makes it again from what is left.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from datetime import date, datetime
from html import escape
from pathlib import Path
from typing import Final

from tasks.interactions.counts import Cared

PAGES: Final = "example_pages"
"""What they are called among the tables that were cared for."""
REPORTS: Final = "reports"
"""Folder of the state folder, with a folder an application."""
_NAME: Final = re.compile(r"(\d{8})T\d{6}Z-\d{8}T\d{6}Z-examples\.html")
_ROW: Final = "<tr><td>"


def name_page(start: datetime, end: datetime) -> str:
    """Return the name of the page of a window, half open, UTC."""
    return f"{start:%Y%m%dT%H%M%SZ}-{end:%Y%m%dT%H%M%SZ}-examples.html"


def drop_old_pages(root: Path, first: date, *, dry_run: bool) -> Cared:
    """Delete the pages of windows that begin before a day.

    Args:
        root: Folder of the lake.
        first: The first day whose texts are kept, UTC.
        dry_run: Only count them.
    """
    return _drop([path for day, path in _pages(root) if day < first], dry_run=dry_run)


def drop_pages_of(root: Path, calls: Collection[str], *, dry_run: bool) -> Cared:
    """Delete the pages that show any of some calls.

    Args:
        root: Folder of the lake.
        calls: Ids of interactions.
        dry_run: Only count them.
    """
    # The id stands before the texts, so a page whose writer was killed names whom it shows as well.
    cells = [f"<td>{escape(name)}</td>" for name in calls]
    return _drop([path for _, path in _pages(root) if _shows(path, cells)], dry_run=dry_run)


def _pages(root: Path) -> Iterator[tuple[date, Path]]:
    # The lake stands in the state folder, as the reports do.
    for path in sorted((root.parent / REPORTS).glob("*/*.html")):
        if found := _NAME.fullmatch(path.name):
            yield datetime.strptime(found[1], "%Y%m%d").date(), path  # noqa: DTZ007 - a day in UTC, no moment


def _shows(path: Path, cells: Collection[str]) -> bool:
    text = _read(path)
    return any(cell in text for cell in cells)


def _drop(pages: Collection[Path], *, dry_run: bool) -> Cared:
    rows = 0
    for path in pages:
        rows += _read(path).count(_ROW)
        if not dry_run:
            path.unlink(missing_ok=True)
    return Cared(table=PAGES, files_before=len(pages), rows=rows)


def _read(path: Path) -> str:
    """Return the text of a page; one that is gone meanwhile shows nothing."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
