"""Where interactions come from: each format of documents, read into the one log."""

from __future__ import annotations

from tasks.interactions.sources.context import Context
from tasks.interactions.sources.formats import FORMATS, Format, detect
from tasks.interactions.sources.mapping import Mapping, read_mapping
from tasks.interactions.sources.otlp import from_protobuf
from tasks.interactions.sources.splitting import split

__all__ = ["FORMATS", "Context", "Format", "Mapping", "detect", "from_protobuf", "read_mapping", "split"]
