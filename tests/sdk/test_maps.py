"""Maps, as tests/javascript/maps.mjs describes them, with the SDK: in Node.js on all transports, and in Chromium."""

from __future__ import annotations

import asyncio
import re
import uuid
from pathlib import Path

import pytest

from tests.sdk import Driver
from tests.sdk.javascript import NodeDriver
from tests.support.balancer import Balancer
from tests.support.processes import API_KEY, Cluster
from tests.support.tokens import token

pytestmark = [pytest.mark.redis, pytest.mark.node]

_SCRIPT = Path(__file__).parent.parent / "javascript" / "maps.mjs"
BEHAVIOURS = re.findall(r'^  "([^"]+)": ', _SCRIPT.read_text(), re.MULTILINE)
KINDS = [
    *(pytest.param(("node", *kind), id="-".join(("node", *kind))) for kind in NodeDriver.kinds),
    # A browser has few connections for other transports at once.
    *(
        pytest.param(("browser", "websocket", encoding), id=f"browser-{encoding}", marks=pytest.mark.browser)
        for encoding in ("json", "protobuf")
    ),
]


@pytest.fixture(scope="module", params=KINDS)
def failures(request: pytest.FixtureRequest, cluster: Cluster, running_balancer: Balancer) -> dict[str, str]:
    """What failed, by behaviour; all of them are run at once."""
    platform, transport, encoding = request.param
    driver: Driver = request.getfixturevalue(f"{platform}_driver")
    running_balancer.ports = [node.port for node in cluster.nodes]
    scheme = "ws" if transport == "websocket" else "http"
    prefix = f"{uuid.uuid4().hex[:8]}-"
    private = f"$positioned:{prefix}"
    settings = {
        "endpoint": {
            "transport": transport,
            "endpoint": running_balancer.url(f"/connection/{transport}", scheme),
        },
        "options": {
            "emulationEndpoint": running_balancer.url("/emulation"),
            "minReconnectDelay": 10,
            "maxReconnectDelay": 100,
        },
        # To the browser the API belongs to the same site as the page.
        "apiUrl": running_balancer.url("") if platform == "node" else "",
        "apiKey": API_KEY,
        "prefix": prefix,
        "tokens": {private: [token("", ttl_s=ttl_s, channel=private) for ttl_s in (2, 3, 3600)]},
    }
    result: dict[str, str] = asyncio.run(driver.perform("maps", "", encoding=encoding, settings=settings))
    return result


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_maps_behave_for_the_sdk_as_its_authors_test(failures: dict[str, str], behaviour: str) -> None:
    assert not failures[behaviour], failures[behaviour]


def test_every_behaviour_has_a_test(failures: dict[str, str]) -> None:
    assert sorted(failures) == sorted(BEHAVIOURS)
    assert len([name for name in BEHAVIOURS if name[0].isdigit()]) == 22
