from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from flows.forget import forget
from flows.ingestion import ingestion
from flows.maintenance import maintenance
from flows.reprice import reprice
from tasks import settings as settings_module
from tasks.release.history import Deed
from tasks.stores.lake import Lake
from tasks.stores.lake_forget import hash_user
from tasks.stores.ledger import Ledger

pytestmark = pytest.mark.usefixtures("prefect_server")
NOW = datetime.now(UTC)
SECRET = "what nobody may read"  # noqa: S105 - no password

DAY = date(2026, 1, 1)
TABLE = Path(__file__).parent / "formats" / "burstgpt.csv"
BURST = """
columns:
  time: {column: Timestamp, unit: s}
  model: Model
  input_tokens: Request tokens
  output_tokens: Response tokens
  route: Log Type
constants: {application: burst, provider: openai}
origin: 2023-01-01T00:00:00+00:00
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[settings_module.Settings]:
    """Point the flow at stores of its own."""
    monkeypatch.setenv("DELIVERY_STATE_DIR", str(tmp_path))
    settings_module.settings.cache_clear()
    yield settings_module.settings()
    settings_module.settings.cache_clear()


def artifacts() -> dict[str, object]:
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(exists_=True)))
        other = client.read_artifacts()
    return {one.key: one.data for one in found} | {
        f"progress of {one.description}": one.data for one in other if one.type == "progress"
    }


def test_a_log_goes_in_is_looked_at_set_aside_and_cared_for(config: settings_module.Settings) -> None:
    folder = config.log_dir / "support" / f"{NOW - timedelta(days=3):%Y-%m-%d}"
    folder.mkdir(parents=True)
    calls = [
        {
            "interaction_id": f"i{number}",
            "application": "support",
            "time": (NOW - timedelta(days=3) + timedelta(seconds=number)).isoformat(),
            "status": 200,
            "input_text": SECRET,
            "user_hash": hash_user("alice") if number % 2 else hash_user("bob"),
        }
        for number in range(120)
    ]
    (folder / "a.jsonl").write_text("".join(json.dumps(call) + "\n" for call in calls) + "broken\n")
    dry = ingestion(dry_run=True)
    assert (dry.read, dry.stored, dry.rejected, sum(one.rows for one in dry.contents)) == (121, 120, 1, 120)
    assert Lake(config.lake_dir).days() == ()
    done = ingestion(application="support")
    assert (done.read, done.stored, done.duplicates, done.rejected) == (121, 120, 0, 1)
    ahead = [call | {"interaction_id": f"j{at}", "time": "2190-01-01T00:00:00Z"} for at, call in enumerate(calls)]
    (folder / "b.jsonl").write_text("".join(json.dumps(call) + "\n" for call in ahead))
    late = ingestion(path=folder / "b.jsonl", format="native")
    assert (late.read, late.rejected, late.set_aside) == (120, 120, 120)
    shown = artifacts()
    assert shown["progress of ingest a.jsonl"] == 100.0
    assert {"ingestion", "ingestion-preview", "set-aside"} <= shown.keys()
    assert "ahead_share 1 > limit 0.01" in str(shown["set-aside"])
    assert SECRET not in str(shown)
    cared = maintenance(text_days=1, log_days=30)
    assert [(one.table, one.rows) for one in cared] == [("interactions", 120), ("log files", 0)]
    forget(hash_user("alice"), dry_run=True)
    assert len(list(folder.iterdir())) == 2
    size = sum(path.stat().st_size for path in folder.iterdir())
    forgotten = forget(hash_user("alice"), who="dpo", reason="request of May")
    assert [(one.table, one.rows) for one in forgotten] == [
        ("set_aside", 60),
        ("interactions", 60),
        ("log files", size),
    ]
    assert not folder.exists()
    assert ingestion(application="support").read == 0
    assert reprice(DAY, DAY) == reprice(DAY, DAY, "bot", dry_run=False, who="cfo") == ()
    acts = Ledger(config.ledger).acts("bot")
    assert [(act.deed, act.application, act.who, act.reason) for act in acts] == [
        (Deed.REPRICE, "bot", "cfo", ""),
        (Deed.FORGET, "", "dpo", "request of May"),
    ]


def test_a_table_goes_in_by_the_mapping_a_file_declares(config: settings_module.Settings, tmp_path: Path) -> None:
    mapping = tmp_path / "burst.yaml"
    mapping.write_text(BURST, encoding="utf-8")
    done = ingestion(path=TABLE, mapping=mapping)
    assert (done.read, done.stored, done.duplicates, done.rejected) == (54, 54, 0, 0)
    assert ingestion(path=TABLE, mapping=mapping).read == 0
    start = datetime(2023, 1, 1, tzinfo=UTC)
    rows = Lake(config.lake_dir).window("burst", start, start + timedelta(days=1), ["model", "input_tokens", "route"])
    assert rows.num_rows == 54
    assert rows.to_pylist()[0] == {"model": "ChatGPT", "input_tokens": 472, "route": "Conversation log"}
    assert sum(rows["input_tokens"].to_pylist()) == 29_159
