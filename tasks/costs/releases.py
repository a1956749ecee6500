"""The releases that bring their own price or budget, read from the registry once each."""

from __future__ import annotations

import re
from functools import cache

from tasks.costs.billing import FindRelease
from tasks.errors import NotFoundError
from tasks.release.model import NAME_PATTERN, Release
from tasks.stores.registry import Registry


def registered_releases(mlflow_url: str) -> FindRelease:
    """Return what finds a release by application and digest; None where none is registered."""
    registry = Registry(mlflow_url)

    @cache
    def find(application: str, digest: str) -> Release | None:
        if not re.fullmatch(NAME_PATTERN, application):
            return None  # the registry accepts no such name
        try:
            return registry.find(application, digest)
        except NotFoundError:
            return None

    return find
