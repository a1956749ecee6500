"""Read a YAML or JSON file that people wrote into a record, strictly: every refusal names file, field and value."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from tasks.errors import InputError

_Model = TypeVar("_Model", bound=BaseModel)
_SECRETS = re.compile(r"(?<=://)[^/\s]*(?=@)|(?<=\?)[^\s'\"]+")


class _Strict(yaml.SafeLoader):
    """YAML's plain types only, and a key that stands twice is an error and not the last one's."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", node.value[number][0].start_mark
                )
        return super().construct_mapping(node, deep)


class _Texts(_Strict):
    """As ``_Strict``, and every scalar stays a text, so that no price passes through a binary float."""


_Texts.yaml_implicit_resolvers = {}


def read_document(path: Path, model: type[_Model], *, texts: bool = False) -> _Model:
    """Read a file into a record.

    Args:
        path: A YAML or JSON file in UTF-8.
        model: The record.
        texts: Leave every scalar a text for the record to parse.

    Raises:
        InputError: It cannot be read, or a value is not allowed; every bad field is named with its value.
    """
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_Texts if texts else _Strict)  # noqa: S506 - safe
    except (OSError, ValueError, LookupError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: expected a mapping of fields, not {type(document).__name__}")
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise InputError(f"{path}: {describe(error)}") from error


def describe(error: ValidationError) -> str:
    """Return every bad field with its value in one line; what may be a key in an address is masked."""
    return "; ".join(
        f"{'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']} (was {shown(item['input']):.80})"
        for item in error.errors(include_url=False)
    )


def shown(value: object) -> str:
    """Return a value for a message, with what may be a key in an address masked."""
    return _SECRETS.sub("***", repr(value))
