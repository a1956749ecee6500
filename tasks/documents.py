"""Read a YAML or JSON file that people wrote into a record, strictly: every refusal names file, field and value.

What a lax parser would bend is refused: a key that stands twice, ``yes`` where a number is wanted, a number in quotes,
bytes, control characters, and anchors that unfold into more than a person could have written. What is refused is said
in one line, whatever stands in the file: what does not print is escaped, and what may be a key in an address is masked.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from tasks.errors import InputError

MAX_BYTES = 1_000_000
MAX_VALUES = 50_000
_MAX_FIELDS = 20
_Model = TypeVar("_Model", bound=BaseModel)
_SECRETS = re.compile(r"(?<=://)[^/\s]*(?=@)|(?<=\?)[^\s'\"]+")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_PLAIN = re.compile(r"[A-Za-z0-9_\[\]-]+")
Place = tuple[int | str, ...]


class _Strict(yaml.SafeLoader):
    """YAML's plain types only, and a key that stands twice is an error and not the last one's."""

    _values = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._values += 1
        if self._values > MAX_VALUES:
            raise _too_many_values()
        return super().compose_node(parent, index)

    def construct_document(self, node: yaml.Node) -> Any:
        if _unfolded(node, {}) > MAX_VALUES:
            raise _too_many_values()
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Hashable] = set()
        for part, _ in node.value:
            key = self.construct_object(part, deep=True)
            if isinstance(key, Hashable):  # what is not, is refused below
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key!r:.80} stands twice", part.start_mark
                    )
                seen.add(key)
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
    document = _load(path, _Texts if texts else _Strict)
    if not isinstance(document, dict):
        raise InputError(f"{path}: expected a mapping of fields, not {type(document).__name__}")
    try:
        record = model.model_validate(document)
    except ValidationError as error:
        raise InputError(f"{path}: {describe(error, model)}") from error
    bent = list(_bent(document, record.model_dump(by_alias=True), ()))
    if bent and not texts:
        raise InputError(f"{path}: {_listed(bent)}")
    return record


def describe(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """Return every bad field with its value in one line; what may be a key in an address is masked.

    Args:
        error: What was refused.
        model: The record; with it, an unknown key is answered with those that are allowed.
    """
    return _listed(
        [
            f"{_at(item['loc'])}: {_one_line(item['msg'])} (was {shown(item['input']):.80})"
            f"{_allowed(model, item['loc'][:-1]) if item['type'] == 'extra_forbidden' else ''}"
            for item in error.errors(include_url=False)
        ]
    )


def shown(value: object) -> str:
    """Return a value for a message, with what may be a key in an address masked."""
    return _SECRETS.sub("***", repr(value))


def _load(path: Path, loader: type[_Strict]) -> Any:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise InputError(f"{path}: it is too large; allowed: {MAX_BYTES} bytes")
        document = yaml.load(data.decode(), Loader=loader)  # noqa: S506 - safe
        odd = next(_odd(document, (), ()), None)
    except (OSError, ValueError, LookupError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read: {_one_line(_SECRETS.sub('***', str(error)))}") from error
    if odd is not None:
        raise InputError(f"{path}: {odd}")
    return document


def _listed(problems: list[str]) -> str:
    more = [f"and {len(problems) - _MAX_FIELDS} more"] if len(problems) > _MAX_FIELDS else []
    return "; ".join([*problems[:_MAX_FIELDS], *more])


def _at(place: Place) -> str:
    return ".".join(f"{part if _PLAIN.fullmatch(str(part)) else repr(part)!s:.80}" for part in place) or "file"


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in " ".join(text.split()))


def _too_many_values() -> yaml.YAMLError:
    return yaml.YAMLError(f"it holds too many values; allowed: {MAX_VALUES}, and anchors count wherever they are used")


def _unfolded(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many values a node holds, with all that its anchors stand for; one that holds itself is left."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = 1
        parts = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_unfolded(part, known) for part in parts)
    return known[id(node)]


def _odd(value: Any, place: Place, within: tuple[int, ...]) -> Iterator[str]:
    """Yield what is no text, number, list or mapping of such: control characters, bytes, sets, which have no order."""
    if isinstance(value, bytes | set):
        yield f"{_at(place)}: {type(value).__name__} is not allowed (was {value!r:.80}); write a text or a list"
    elif isinstance(value, str) and (found := _CONTROL.search(value)):
        what = "half of a surrogate pair, which is no text" if found.group() >= "\ud800" else "a control character"
        yield f"{_at(place)}: {what} (was {value!r:.80}) at {found.start()}; allowed: printable, tab and line end"
    elif isinstance(value, dict | list) and id(value) not in within:
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in parts:
            if isinstance(value, dict):
                yield from _odd(key, (*place, key), ())
            yield from _odd(item, (*place, key), (*within, id(value)))


def _bent(given: Any, kept: Any, place: Place) -> Iterator[str]:
    """Yield what the record took for something that was not written: ``yes`` for 1, ``"1"`` for 1."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, item in given.items():
            yield from _bent(item, kept.get(key), (*place, key))
    elif isinstance(given, list) and isinstance(kept, list | tuple):
        for at, pair in enumerate(zip(given, kept, strict=False)):
            yield from _bent(*pair, (*place, at))
    elif isinstance(given, bool) is not isinstance(kept, bool) or (
        isinstance(given, str) and isinstance(kept, int | float)
    ):
        wanted = "true or false" if isinstance(kept, bool) else "a number" if not isinstance(kept, str) else "a text"
        yield f"{_at(place)}: Input should be {wanted}, not {type(given).__name__} (was {shown(given):.80})"


def _allowed(model: type[BaseModel] | None, place: Place) -> str:
    """Return the keys that are allowed at a place of a record, empty where that cannot be told."""
    for part in place:
        annotation = model.model_fields[str(part)].annotation if model and part in model.model_fields else None
        model = model if isinstance(part, int) else next(_records(annotation), None)
    if model is None:
        return ""
    return f" [allowed: {', '.join(sorted(field.alias or name for name, field in model.model_fields.items()))}]"


def _records(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _records(part)
