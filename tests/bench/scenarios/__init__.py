"""The scenarios. A new one is a file here and a line below."""

from __future__ import annotations

from collections.abc import Mapping

from tests.bench.scenarios.comeback import Comeback
from tests.bench.scenarios.crowd import CrowdScenario
from tests.bench.scenarios.cursors import Cursors
from tests.bench.scenarios.echo import EchoScenario
from tests.bench.scenarios.fanout import Fanout
from tests.bench.scenarios.inbound import Inbound
from tests.bench.scenarios.ingest import IngestScenario
from tests.bench.scenarios.map_load import MapLoad
from tests.bench.scenarios.map_writes import MapWrites
from tests.bench.scenarios.nodes import Nodes
from tests.bench.scenarios.scenario import Bench, Scenario
from tests.bench.scenarios.stalled import Stalled

__all__ = ["SCENARIOS", "Bench", "Scenario"]

_ALL: tuple[Scenario, ...] = (
    Fanout(),
    CrowdScenario(),
    EchoScenario(),
    Inbound(),
    Stalled(),
    Nodes(),
    Comeback(),
    IngestScenario(),
    MapWrites(),
    MapLoad(),
    Cursors(),
)

SCENARIOS: Mapping[str, Scenario] = {scenario.name: scenario for scenario in _ALL}
