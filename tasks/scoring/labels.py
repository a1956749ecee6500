"""Labels that people gave to answers, and files of JSON lines, read strictly and without repeating what they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.errors import InputError

MAX_LINES: Final = 100_000
_Model = TypeVar("_Model", bound=BaseModel)
_WORDS: Final = {"good": True, "bad": False, "yes": True, "no": False, "true": True, "false": False}


class Label(BaseModel):
    """What a person says of one answer.

    Attributes:
        interaction_id: The call.
        label: ``true``, 1 or a word such as good; ``false``, 0 or a word such as bad.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    interaction_id: str = Field(min_length=1)
    label: bool | int | str

    @property
    def is_good(self) -> bool | None:
        """Whether the answer is good; None where the label says nothing that is known."""
        if isinstance(self.label, str):
            return _WORDS.get(self.label.strip().lower())
        return bool(self.label) if self.label in {0, 1} else None


def read_labels(path: Path) -> dict[str, bool]:
    """Read labels: JSON lines of ``interaction_id`` and ``label``.

    Returns:
        Whether each answer is good, by its id.

    Raises:
        InputError: A line cannot be read, a label is not known, or two people disagree on an answer.
    """
    found: dict[str, bool] = {}
    for number, row in enumerate(read_lines(path, Label), start=1):
        good = row.is_good
        if good is None:
            raise InputError.of(f"{path}, label {number}", row.label, f"true, false, 1, 0, {', '.join(_WORDS)}")
        if found.setdefault(row.interaction_id, good) != good:
            raise InputError(
                f"{path}, label {number}: {row.interaction_id} is good and bad; settle which, and keep one"
            )
    return found


def read_lines(path: Path, model: type[_Model]) -> list[_Model]:
    """Read a file of JSON lines; empty lines are passed over.

    Raises:
        InputError: It cannot be read, or a line is no record of the kind; nothing of what stands in it is repeated.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot be read ({type(error).__name__}); give a file of JSON lines in UTF-8"
        ) from None
    if len(lines) > MAX_LINES:
        raise InputError(f"{path}: {len(lines)} lines > limit {MAX_LINES}; give fewer")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows += [model.model_validate_json(line)] if line.strip() else []
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part)[:40] for part in first["loc"]) or "line"
            raise InputError(
                f"{path}, line {number}: {place}: {first['type']}; give {', '.join(model.model_fields)}"
            ) from None
    return rows
