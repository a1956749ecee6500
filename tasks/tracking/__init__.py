"""One tracker for an application: ``track_interaction`` and ``track_feedback``."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, Final

from tasks.interactions.redaction import make_redactor
from tasks.settings import settings
from tasks.tracking.monitors import Monitors
from tasks.tracking.tracker import Call, Tracker

__all__ = ["Call", "Monitors", "Tracker", "configure", "track_feedback", "track_interaction"]

URL_VARIABLE: Final = "DELIVERY_RECEIVER_URL"
TOKEN_VARIABLE: Final = "DELIVERY_RECEIVER_TOKEN"  # noqa: S105 - the name of a variable
_lock = threading.Lock()
_tracker: Tracker | None = None


def configure(
    folder: Path | None = None, *, url: str | None = None, token: str | None = None, **options: Any
) -> Tracker:
    """Make the tracker that the functions of this module use, and close the one before it.

    Args:
        folder: Where to write; by default the project's interaction log, or its outbox where there is a receiver.
        url: The receiver; by default ``DELIVERY_RECEIVER_URL``, and none where that is not set.
        token: Its token; by default ``DELIVERY_RECEIVER_TOKEN``.
        options: As ``Tracker`` takes them; ``content`` and ``redact`` are by default those of the settings.

    Raises:
        InputError: A value is not allowed.
    """
    global _tracker
    made = _made(folder, url, token, options)
    with _lock:
        before, _tracker = _tracker, made
    if before is not None:
        before.close()
    return made


def _made(folder: Path | None, url: str | None, token: str | None, options: dict[str, Any]) -> Tracker:
    url = url or os.environ.get(URL_VARIABLE) or None
    token = token or os.environ.get(TOKEN_VARIABLE) or None
    where = settings()
    folder = folder or (where.state_dir.absolute() / "outbox" if url else where.log_dir)
    # What may not be kept in the lake has no place in the files before it either.
    options.setdefault("content", where.content)
    if where.redact:
        options.setdefault("redact", make_redactor())
    return Tracker(folder, url=url, token=token, **options)


def track_interaction(**columns: Any) -> str:
    """Take one call and return its id at once, as ``Tracker.track_interaction``."""
    return _current().track_interaction(**columns)


def track_feedback(interaction_id: str, **said: Any) -> str:
    """Take what somebody says of an answer and return the feedback's id, as ``Tracker.track_feedback``."""
    return _current().track_feedback(interaction_id, **said)


def _current() -> Tracker:
    global _tracker  # noqa: PLW0603 - one for the application is the point
    if _tracker is None:
        with _lock:
            if _tracker is None:
                _tracker = _made(None, None, None, {})
    return _tracker
