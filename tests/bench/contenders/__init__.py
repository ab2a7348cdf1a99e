"""The servers that are measured beside each other. Another one is another file here and another line below."""

from __future__ import annotations

from collections.abc import Mapping

from tests.bench.contenders.centrifugo import Centrifugo
from tests.bench.contenders.classic import Classic
from tests.bench.contenders.contender import Contender, Echo
from tests.bench.contenders.floor import Floor
from tests.bench.contenders.nats import Nats
from tests.bench.contenders.nchan import Nchan
from tests.bench.contenders.ours import Ours
from tests.bench.contenders.ours_centrifuge import OursCentrifuge
from tests.bench.contenders.socket_io import SocketIO

__all__ = ["CONTENDERS", "Contender", "Echo"]

_ALL: tuple[Contender, ...] = (Ours(), OursCentrifuge(), Floor(), Nchan(), Nats(), Centrifugo(), SocketIO(), Classic())

CONTENDERS: Mapping[str, Contender] = {contender.name: contender for contender in _ALL}
