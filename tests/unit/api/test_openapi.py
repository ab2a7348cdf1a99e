"""The documentation of the server API in OpenAPI."""

from __future__ import annotations

import json
from typing import Any

import cent
import pytest
from fastapi import FastAPI

from roomcast.api import routes
from roomcast.api.methods import ABSENT, METHODS
from roomcast.api.openapi import RESULTS
from roomcast.api.request_models import BatchRequest, validated


@pytest.fixture(scope="module")
def paths() -> dict[str, Any]:
    app = FastAPI()
    app.include_router(routes.router)
    found: dict[str, Any] = app.openapi()["paths"]
    return found


@pytest.mark.parametrize("method", [*METHODS, "batch"])
def test_every_method_is_there_with_its_request_its_examples_and_both_ways_to_answer_errors(
    paths: dict[str, Any], method: str
) -> None:
    operation = paths[f"/api/{method}"]["post"]

    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert operation["summary"].endswith((".", ","))
    assert operation["description"]
    assert schema["examples"]
    assert "$ref" not in json.dumps(schema), "the schema is inside the page, where a reference would lead nowhere"
    assert operation["responses"]["200"]["content"]["application/json"]["examples"].keys() == {"done", "refused"}
    assert {"200", "400", "401", "413", "default"} <= operation["responses"].keys()
    assert [parameter["name"] for parameter in operation["parameters"]] == ["X-Roomcast-Error-Mode"]
    assert {"X-API-Key": []} in operation["security"]
    assert {"Authorization": []} in operation["security"]


def test_what_there_is_not_is_not_shown(paths: dict[str, Any]) -> None:
    assert not {f"/api/{name}" for name in ABSENT} & paths.keys()


@pytest.mark.parametrize("method", METHODS)
def test_an_example_is_a_request_and_its_answer_what_clients_expect(method: str) -> None:
    model = METHODS[method].request
    examples: Any = model.model_json_schema()["examples"]

    for example in examples:
        validated(model, example)
    result = getattr(cent, "".join(map(str.title, method.split("_"))) + "Result", None)
    if result is not None:  # cent has no rpc
        result.model_validate(RESULTS[method])


def test_the_example_of_a_batch_is_of_methods_that_are_there() -> None:
    examples: Any = BatchRequest.model_json_schema()["examples"]

    for command in validated(BatchRequest, examples[0]).commands:
        ((method, wanted),) = command.items()
        validated(METHODS[method].request, wanted)
