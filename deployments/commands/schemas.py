"""JSON schemas (draft 2020-12) of the files people write, for editors; the records themselves judge what is read.

A schema never refuses a file that would be read. It lets a few through that would not: what holds between two fields,
such as shares that must rise, is beyond it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic import BaseModel

from tasks.budgets.budget import BudgetBook
from tasks.errors import InputError
from tasks.experiments.design import ExperimentDesign
from tasks.release.model import ENDPOINT_PATTERN, RESERVED_PARAMETERS, ReleaseSpec
from tasks.release.ramp import RampPolicy
from tasks.scoring.extra import EvaluationSpec
from tasks.shadows.shadow import ShadowPolicy
from tasks.smoke.suite import SmokeSuite

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_Schema = dict[str, Any]


def _refine_release(schema: _Schema) -> None:
    fields, prompt = schema["properties"], schema["$defs"]["PromptRef"]
    for name in ("version", "baseline"):
        fields[name]["anyOf"] = [*_choices(fields[name]), {"type": "integer"}]
    fields["endpoint"]["pattern"] = f"^({ENDPOINT_PATTERN.pattern})$"
    fields["parameters"]["propertyNames"] = {"not": {"enum": sorted(RESERVED_PARAMETERS)}}
    shorthand = {"type": "string", "pattern": r"^.+@[0-9]+$", "description": "A registered version: name@version."}
    fields["prompt"] = {"anyOf": [{"$ref": "#/$defs/PromptRef"}, shorthand]}
    prompt["oneOf"] = [_given("text"), _given("version")]


def _refine_smoke(schema: _Schema) -> None:
    schema["$defs"]["SmokeCase"]["oneOf"] = [_given("question"), _given("messages")]


def _refine_nothing(_: _Schema) -> None:
    pass


_KINDS: Final[Mapping[str, tuple[type[BaseModel], Callable[[_Schema], None]]]] = {
    "release": (ReleaseSpec, _refine_release),
    "smoke": (SmokeSuite, _refine_smoke),
    "ramp": (RampPolicy, _refine_nothing),
    "experiment": (ExperimentDesign, _refine_nothing),
    "shadow": (ShadowPolicy, _refine_nothing),
    "budgets": (BudgetBook, _refine_nothing),
    "evaluation": (EvaluationSpec, _refine_nothing),
}
KINDS: Final = tuple(_KINDS)


def file_schema(kind: str) -> str:
    """Return the JSON schema of a kind of file: the same text whenever the records are the same.

    Args:
        kind: ``release``, ``smoke``, ``ramp``, ``experiment``, ``shadow``, ``budgets`` or
            ``evaluation``.

    Raises:
        InputError: There is no such kind.
    """
    if kind not in _KINDS:
        raise InputError.of("schema", kind, KINDS)
    model, refine = _KINDS[kind]
    schema = model.model_json_schema()
    refine(schema)
    document = {"$schema": DIALECT, "$comment": f"written by: delivery schema {kind}", **schema}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _given(name: str) -> _Schema:
    """Return what holds where a field is there and not null."""
    return {"required": [name], "properties": {name: {"not": {"type": "null"}}}}


def _choices(field: _Schema) -> list[_Schema]:
    """Return the alternatives of a field, and take what becomes one of them out of it."""
    if "anyOf" in field:
        choices: list[_Schema] = field["anyOf"]
        return choices
    return [{key: field.pop(key) for key in ("type", "pattern") if key in field}]
