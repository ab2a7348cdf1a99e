from __future__ import annotations

import pytest

from roomcast.transports.websocket.handshake import offers_deflate, parse


@pytest.mark.parametrize(
    ("offer", "is_usable"),
    [
        ("permessage-deflate", True),
        ("permessage-deflate; client_max_window_bits", True),
        ('permessage-deflate; client_max_window_bits="15"; server_no_context_takeover', True),
        ("foo, permessage-deflate", True),
        ("permessage-deflate; server_max_window_bits=10, permessage-deflate", True),
        ("permessage-deflate; server_max_window_bits=10", False),
        ("permessage-deflate; client_max_window_bits=16", False),
        ("permessage-deflate; client_no_context_takeover=1", False),
        ("permessage-deflate; client_no_context_takeover; client_no_context_takeover", False),
        ("permessage-deflate; foo=1", False),
        ("x-webkit-deflate-frame", False),
    ],
)
def test_an_offer_is_taken_only_with_parameters_of_rfc_7692(offer: str, is_usable: bool) -> None:
    request = parse(f"GET / HTTP/1.1\r\nSec-WebSocket-Extensions: {offer}\r\n\r\n".encode())

    assert offers_deflate(request) is is_usable
