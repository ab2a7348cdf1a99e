"""nginx with the nchan module, one worker (Debian: nginx and libnginx-mod-nchan). Published to by pipelined POSTs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests.bench.bus import Bus
from tests.bench.contenders.contender import Echo
from tests.bench.contenders.printed import printed
from tests.bench.dialogue import Dialogue
from tests.bench.maps import Maps
from tests.bench.outlet import Outlet
from tests.bench.place import HOST, Place

_PROGRAM = "nginx"
_MODULE = "ngx_nchan_module.so"

# Relative to nginx's own prefix. No message is kept, as in a room of ours; pings as often as ours.
_CONFIG = """
load_module modules/{module};
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr crit;
worker_rlimit_nofile {files};
events {{ worker_connections {files}; }}
http {{
  access_log off;
  client_body_temp_path {folder};
  proxy_temp_path {folder};
  fastcgi_temp_path {folder};
  uwsgi_temp_path {folder};
  scgi_temp_path {folder};
  keepalive_requests 1000000000;
  nchan_shared_memory_size 256M;
  server {{
    listen {host}:{port} backlog=4096;
    nchan_channel_id bench;
    nchan_store_messages off;
    location = /subscribe {{ nchan_pubsub websocket; nchan_websocket_ping_interval 25; }}
    location = /publish {{ nchan_publisher; nchan_publisher_channel_id bench; }}
  }}
}}
"""
_FILES = 20_000


class Nchan:
    """Implements `Contender`."""

    name = "nchan"
    echo: Echo | None = None
    maps: Maps | None = None
    can_publish = True
    shares_redis = False

    def missing(self) -> str | None:
        if not shutil.which(_PROGRAM):
            return f"no {_PROGRAM} on the PATH"
        modules = re.search(r"--modules-path=(\S+)", printed([_PROGRAM, "-V"]))
        if modules is None or not (Path(modules[1]) / _MODULE).exists():
            return f"{_PROGRAM} has no {_MODULE}"
        return None

    def version(self) -> dict[str, str]:
        return {_PROGRAM: printed([_PROGRAM, "-v"]).rpartition("/")[2].strip()}

    def command(self, place: Place, bus: Bus) -> list[str]:
        config = place.folder / "nginx.conf"
        config.write_text(_CONFIG.format(module=_MODULE, folder=place.folder, files=_FILES, host=HOST, port=place.port))
        return [_PROGRAM, "-c", str(config)]

    def environment(self, bus: Bus) -> dict[str, str]:
        return {}

    def dialogue(self, bus: Bus, size_bytes: int) -> Dialogue:
        return Dialogue("/subscribe")

    def outlet(self, place: Place, bus: Bus, size_bytes: int) -> Outlet:
        request = f"POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size_bytes}\r\n\r\n"
        return Outlet(place.port, request.encode(), b"")
