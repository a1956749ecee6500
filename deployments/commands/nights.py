"""Have Prefect itself tell people when no night was judged: it needs no worker and none of our flows for that."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

from deployments.commands.kick import open_client
from tasks.errors import InputError, NotFoundError

FILE: Final = Path(__file__).parents[1] / "automations.yaml"
SUBJECT: Final = "[error] no night was judged in 26 hours"
BODY: Final = (
    "The nightly evaluation did not complete in 26 hours: releases that fail are not seen.\n"
    "Look why: delivery health; the runs of evaluation/nightly; the worker.\n"
    "Then: prefect deployment run evaluation/nightly"
)


def watch_nights(block: str, *, within_s: int | None = None) -> str:
    """Make the automation that tells a block of a missed night, or bring the one there is up to it.

    Args:
        block: ``type/name`` of a notification block of Prefect.
        within_s: How long a night may take to come, seconds, 10 or more; None: as the file says.

    Returns:
        What was done, in one line.

    Raises:
        NotFoundError: There is no such block.
        InputError: It does not notify.
        UnreachableError: The server does not answer.
    """
    from prefect.events.actions import SendNotification
    from prefect.events.schemas.automations import AutomationCore

    (found,) = yaml.safe_load(FILE.read_text(encoding="utf-8"))["automations"]
    trigger: dict[str, Any] = found["trigger"] | ({"within": within_s} if within_s is not None else {})
    with open_client() as client:
        action = SendNotification(block_document_id=_find(client, block), subject=SUBJECT, body=BODY)
        wanted = AutomationCore.model_validate(found | {"trigger": trigger, "actions": [action.model_dump()]})
        known = client.read_automations_by_name(wanted.name)
        for old in known[:1]:
            client.update_automation(old.id, wanted)
        for old in known[1:]:
            client.delete_automation(old.id)
        if not known:
            client.create_automation(wanted)
    return f"automation {wanted.name!r} {'was brought up' if known else 'was made'}: it tells {block}"


def _find(client: Any, block: str) -> Any:
    from prefect.exceptions import ObjectNotFound

    kind, _, name = block.partition("/")
    if not kind or not name:
        raise InputError.of("BLOCK", block, "type/name of a notification block, such as slack-webhook/oncall")
    try:
        document = client.read_block_document_by_name(name, kind)
    except ObjectNotFound:
        raise NotFoundError(f"there is no block {block}; list them: prefect block ls") from None
    if "notify" not in document.block_schema.capabilities:
        raise InputError.of("BLOCK", block, "a notification block, such as slack-webhook/oncall")
    return document.id
