from __future__ import annotations

import json
from uuid import uuid4

import pytest
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from tasks.errors import InputError, NotFoundError
from tasks.release.model import ReleaseSpec
from tasks.stores.models import ModelStore
from tasks.stores.registry import Registry

pytestmark = pytest.mark.stack


@pytest.fixture(scope="session")
def models(mlflow_url: str) -> ModelStore:
    return ModelStore(mlflow_url)


def a_name(kind: str) -> str:
    return f"{kind}-{uuid4().hex[:8]}"


def test_a_model_is_stored_without_pickle_and_once_a_key(models: ModelStore, capfd: pytest.CaptureFixture[str]):
    name = a_name("model")
    model = LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])

    first = models.log_sklearn_model(name, model, key="a", description="a line")
    second = models.log_sklearn_model(name, model, key="a", description="a line")
    third = models.log_sklearn_model(name, model, key="b")

    assert (first, second, third) == (f"models:/{name}/1", f"models:/{name}/1", f"models:/{name}/2")
    assert models.load_sklearn_model(first).predict([[2.0]])[0] == pytest.approx(4.0)
    assert capfd.readouterr().out == ""


def test_a_model_of_unknown_types_is_neither_stored_nor_loaded(models: ModelStore, monkeypatch: pytest.MonkeyPatch):
    unsafe = Pipeline([("step", FunctionTransformer(func=json.dumps))])
    name = a_name("model")
    with pytest.raises(InputError, match="without pickle"):
        models.log_sklearn_model(name, unsafe)

    monkeypatch.setattr("tasks.stores.models.TRUSTED_TYPES", ("json.dumps",))
    uri = models.log_sklearn_model(name, unsafe)  # as if somebody had written their own list into the model
    monkeypatch.undo()

    with pytest.raises(InputError, match="may not be loaded"):
        models.load_sklearn_model(uri)


def test_a_release_record_is_no_model(models: ModelStore):
    fields = {
        "application": a_name("app"),
        "model_id": "gpt-x",
        "version": "1",
        "endpoint": "http://127.0.0.1:1/v1",
        "prompt": {"name": a_name("prompt"), "text": "Hello."},
    }
    release, _ = Registry(models.url).register(ReleaseSpec.model_validate(fields))

    with pytest.raises(NotFoundError, match="models:/nothing/1 is not in the registry"):
        models.load_sklearn_model("models:/nothing/1")
    with pytest.raises((InputError, NotFoundError), match=release.application):
        models.load_sklearn_model(f"models:/{release.application}/{release.registry_version}")


def test_a_model_is_no_release(models: ModelStore):
    name = a_name("model")
    models.log_sklearn_model(name, LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0]))

    with pytest.raises(NotFoundError, match=f"{name} has no release 1 in the registry: its version is a model"):
        Registry(models.url).release(name, 1)
