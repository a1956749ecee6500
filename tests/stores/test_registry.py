from __future__ import annotations

import json
from uuid import uuid4

import pytest
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from tasks.errors import DeliveryError, InputError, NotFoundError
from tasks.release.model import PromptRef, ReleaseSpec, text_sha256
from tasks.stores.registry import Registry

pytestmark = pytest.mark.stack


@pytest.fixture(scope="session")
def registry(mlflow_url: str) -> Registry:
    return Registry(mlflow_url)


def a_name(kind: str) -> str:
    return f"{kind}-{uuid4().hex[:8]}"


def a_spec(**changes: object) -> ReleaseSpec:
    fields = {
        "application": a_name("app"),
        "model_id": "gpt-x",
        "version": "2026.1",
        "endpoint": "http://127.0.0.1:1/v1",
        "prompt": {"name": a_name("prompt"), "text": "Answer like {{ persona }}.\nÄöü 漢字"},
        "parameters": {"temperature": 0.2, "max_tokens": 64, "seed": 1, "logprobs": True},
        "price": {"input_usd_per_mtok": "0.15", "output_usd_per_mtok": "0.60"},
    }
    return ReleaseSpec.model_validate({**fields, **changes})


def test_a_release_comes_back_as_it_was_registered(registry: Registry):
    spec = a_spec()

    release, is_new = registry.register(spec)

    again = registry.release(spec.application, release.registry_version)
    assert is_new
    assert again.digest == release.digest
    assert again.prompt == release.prompt
    assert again.prompt.text == spec.prompt.text
    assert again.spec.parameters == spec.parameters
    assert registry.find(spec.application, release.digest) == again


def test_the_same_content_is_the_same_release(registry: Registry):
    spec = a_spec()
    first, _ = registry.register(spec)

    second, is_new = registry.register(spec)
    pinned = spec.model_copy(update={"prompt": PromptRef(name=spec.prompt.name, version=first.prompt.version)})
    third, is_new_either = registry.register(pinned)

    assert not is_new
    assert not is_new_either
    assert {second.registry_version, third.registry_version} == {first.registry_version}


def test_another_text_is_another_release_and_another_prompt_version(registry: Registry):
    spec = a_spec()
    first, _ = registry.register(spec)
    other = spec.model_copy(update={"prompt": PromptRef(name=spec.prompt.name, text="Be brief.")})

    second, is_new = registry.register(other)

    assert is_new
    assert (second.registry_version, second.prompt.version) == (first.registry_version + 1, first.prompt.version + 1)


def test_a_prompt_changed_behind_our_back_is_noticed(registry: Registry):
    release, _ = registry.register(a_spec())
    client = registry._client()

    client.set_prompt_version_tag(release.prompt.name, str(release.prompt.version), "mlflow.prompt.text", "Lie.")

    with pytest.raises(DeliveryError, match="changed"):
        registry.release(release.application, release.registry_version)


def test_what_does_not_exist_is_named(registry: Registry):
    release, _ = registry.register(a_spec())

    with pytest.raises(NotFoundError, match="has no release 99"):
        registry.release(release.application, 99)
    with pytest.raises(NotFoundError, match="has no release aaaaaaaaaaaa"):
        registry.find(release.application, "a" * 64)
    with pytest.raises(NotFoundError, match="nobody has no release 1"):
        registry.release("nobody", 1)
    with pytest.raises(NotFoundError, match="nothing@1 is not registered"):
        registry.register(a_spec(prompt="nothing@1"))
    with pytest.raises(NotFoundError, match="models:/nothing/1"):
        registry.register(a_spec(endpoint="models:/nothing/1"))


def test_aliases_are_written_moved_and_removed(registry: Registry):
    spec = a_spec()
    registry.register(spec)
    registry.register(spec.model_copy(update={"version": "2026.2"}))

    registry.set_aliases(spec.application, {"champion": 1, "challenger": 2})
    registry.set_aliases(spec.application, {"champion": 2, "challenger": None, "previous": 1})

    assert registry.aliases(spec.application) == {"champion": 2, "previous": 1}
    with pytest.raises(InputError, match="winner"):
        registry.set_aliases(spec.application, {"winner": 1})


def test_an_evaluation_is_linked_to_its_release(registry: Registry):
    release, _ = registry.register(a_spec())

    run_id = registry.log_evaluation(release, "night", {"quality": 0.9}, {"verdict": "pass"})

    run = registry._client().get_run(run_id)
    assert run.data.metrics == {"quality": 0.9}
    assert run.data.tags["delivery.digest"] == release.digest
    assert run.info.status == "FINISHED"


def test_a_model_is_stored_without_pickle_and_once_a_key(registry: Registry, capfd: pytest.CaptureFixture[str]):
    name = a_name("model")
    model = LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])

    first = registry.log_sklearn_model(name, model, key="a", description="a line")
    second = registry.log_sklearn_model(name, model, key="a", description="a line")
    third = registry.log_sklearn_model(name, model, key="b")

    assert (first, second, third) == (f"models:/{name}/1", f"models:/{name}/1", f"models:/{name}/2")
    assert registry.load_sklearn_model(first).predict([[2.0]])[0] == pytest.approx(4.0)
    assert capfd.readouterr().out == ""


def test_a_model_of_unknown_types_is_neither_stored_nor_loaded(registry: Registry, monkeypatch: pytest.MonkeyPatch):
    unsafe = Pipeline([("step", FunctionTransformer(func=json.dumps))])
    name = a_name("model")
    with pytest.raises(InputError, match="without pickle"):
        registry.log_sklearn_model(name, unsafe)

    monkeypatch.setattr("tasks.stores.registry.TRUSTED_TYPES", ("json.dumps",))
    uri = registry.log_sklearn_model(name, unsafe)  # as if somebody had written their own list into the model
    monkeypatch.undo()

    with pytest.raises(InputError, match="may not be loaded"):
        registry.load_sklearn_model(uri)


def test_a_release_record_is_no_model(registry: Registry):
    release, _ = registry.register(a_spec())

    with pytest.raises(NotFoundError, match="nothing"):
        registry.load_sklearn_model("models:/nothing/1")
    with pytest.raises(DeliveryError, match=release.application):
        registry.load_sklearn_model(f"models:/{release.application}/{release.registry_version}")


def test_the_digest_of_the_prompt_is_that_of_its_bytes(registry: Registry):
    release, _ = registry.register(a_spec())

    assert release.prompt.sha256 == text_sha256(release.spec.prompt.text or "")
