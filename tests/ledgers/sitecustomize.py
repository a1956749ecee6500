"""Run by every Python process that has this folder on its path: its state folders have their ledgers on PostgreSQL.

Settings are changed when they are imported, and not before: most processes never do.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

import state_ledgers


class _SettingsFinder(MetaPathFinder):
    """Finds the module of the settings as everybody else does, and changes it once it is loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if fullname != "tasks.settings":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_change(module: ModuleType) -> None:
                execute(module)
                module.Settings.ledger = property(state_ledgers.ledger_of)

            spec.loader.exec_module = execute_and_change  # type: ignore[method-assign]
        return spec


if os.environ.get(state_ledgers.SERVER):
    sys.meta_path.insert(0, _SettingsFinder())
