"""Schemathesis asks all that the OpenAPI schema tells of, with odd values: no server error."""

import os
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from closed_farm import closed_farm
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

EXAMPLES = int(os.environ.get("SCHEMA_EXAMPLES", "5"))  # of each operation
CHECKS = [
    not_a_server_error,
    response_schema_conformance,
    content_type_conformance,
    status_code_conformance,
]


def _ask_all(operation: Any, headers: dict[str, str], statuses: set[int]) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy())
    def ask(case: Any) -> None:
        answer = case.call(headers=headers)
        statuses.add(answer.status_code)
        case.validate_response(answer, checks=CHECKS)

    ask()


def test_no_operation_answers_with_a_server_error(tmp_path: Path):
    with closed_farm(tmp_path / "state") as farm:
        headers = {"authorization": f"Bearer {farm.tokens['olga']}"}
        text = httpx.get(f"{farm.url}/api/openapi.json", headers=headers).text
        schema = schemathesis.openapi.from_file(text)
        schema.config.base_url = farm.url
        operations = [found.ok() for found in schema.get_all_operations()]
        assert len(operations) > 25
        for operation in operations:
            statuses: set[int] = set()
            _ask_all(operation, headers, statuses)
            assert statuses <= {200, 400, 403, 404, 422}, operation.path
            # 404: of one thing, by an id that nobody can guess.
            assert statuses & {200, 404} or operation.method == "post", operation.path
        # An operator's acts were really done.
        assert len(farm.tracker.accounts.tokens()) > 5


@pytest.mark.parametrize("path", ["/api/devices", "/api/act/cancel"])
def test_the_schema_says_what_may_be_refused(url, path):
    methods = httpx.get(f"{url}/api/openapi.json").json()["paths"][path]
    responses = next(iter(methods.values()))["responses"]
    assert {"200", "401", "403", "422"} <= set(responses)
    content = responses["403"]["content"]["application/json"]["schema"]
    assert content["$ref"].endswith("/Problem")
