"""The OpenAPI document tells the truth: whatever it allows, and what it does not, is answered as it says."""

from __future__ import annotations

from collections import Counter
from typing import Any

import hypothesis
import hypothesis.errors
import pytest
import requests
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from engine.access.roles import SCOPES
from tests.api_server import Api, make_key, module_runtime, serving

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = {GenerationMode.POSITIVE: 6, GenerationMode.NEGATIVE: 4}
"""Requests of each operation: such as the document allows, and such as it does not."""


@pytest.fixture(scope="module")
def api(shared_database, servers, tmp_path_factory):
    runtime = module_runtime(
        shared_database, servers.redis_url.rsplit("/", 1)[0] + "/9", tmp_path_factory.mktemp("openapi")
    )
    with serving(runtime) as running:
        yield running


@pytest.fixture(scope="module")
def document(api: Api) -> dict[str, Any]:
    found: dict[str, Any] = api.ask("/openapi.json").json
    return found


def test_every_request_is_answered_as_the_document_says_and_none_breaks_the_server(
    api: Api, document: dict[str, Any]
) -> None:
    wrong: list[str] = []
    answered: Counter[int] = Counter()
    with requests.Session() as session:
        for found in schemathesis.openapi.from_dict(document).get_all_operations():
            assert isinstance(found, Ok), found
            operation = found.ok()
            for mode, number in EXAMPLES.items():
                # Of its own: one of the requests may take a key away.
                key = make_key(api.runtime.database, *SCOPES, rate=1_000_000)
                headers = {"Authorization": f"Bearer {key}"}

                @hypothesis.settings(max_examples=number, suppress_health_check=list(hypothesis.HealthCheck))
                @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
                def ask(case: schemathesis.Case) -> None:
                    response = case.call(base_url=api.url, session=session, headers=headers)  # noqa: B023 - called here
                    answered[response.status_code] += 1
                    case.validate_response(response, checks=CHECKS)

                try:
                    ask()
                except hypothesis.errors.Unsatisfiable:
                    assert mode is GenerationMode.NEGATIVE, (
                        operation.label
                    )  # nothing can be wrong in what takes nothing
                except (Exception, BaseExceptionGroup) as error:
                    wrong.append(f"{operation.label}, {mode.value}: {error}")
    assert not wrong, "\n".join(wrong)
    assert sum(answered.values()) >= 10 * len(document["paths"])
    assert answered[200] > len(document["paths"])
