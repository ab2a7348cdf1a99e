"""Origins in all spellings, and the patterns that select some."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomcast.model.origins import OriginPatterns, canonical, is_of_host


@pytest.mark.parametrize(
    ("origin", "host", "is_own"),
    [
        ("https://chat.test", "chat.test", True),
        ("https://chat.test", "chat.test:443", True),
        ("http://chat.test", "chat.test:80", True),
        ("wss://chat.test", "chat.test:443", True),
        ("http://chat.test:8000", "chat.test:8000", True),
        ("https://chat.test:443", "chat.test", True),
        ("https://Chat.Test", "chat.TEST:443", True),
        ("https://chat.test.", "chat.test", True),
        ("https://chat.test", "chat.test.:443", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("https://[::1]", "[0:0:0:0:0:0:0:1]:443", True),
        ("http://chat.test", "chat.test:443", False),
        ("https://chat.test", "chat.test:80", False),
        ("https://chat.test:8443", "chat.test", False),
        ("https://chat.test", "chat.test:8443", False),
        ("https://evil.test", "chat.test", False),
        ("https://chat.test.evil.test", "chat.test", False),
        ("https://evil-chat.test", "chat.test", False),
        ("https://chat.test@evil.test", "chat.test", False),
        ("https://chat.test/", "chat.test", False),
        ("null", "null", False),
        ("null", "", False),
        ("", "", False),
        ("https://", "", False),
        ("file://", "", False),
        ("https://*", "*", False),
        ("https://a:*", "a:*", False),
        ("chat.test", "chat.test", False),
    ],
)
def test_the_own_origin_in_other_words(origin: str, host: str, is_own: bool) -> None:
    assert is_of_host(origin, host) is is_own


@pytest.mark.parametrize(
    ("pattern", "origin", "is_allowed"),
    [
        ("https://*.example.com", "https://a.example.com", True),
        ("https://*.example.com", "https://a.b.example.com", True),
        ("https://*.Example.com:443", "https://a.example.com", True),
        ("https://*.example.com", "https://example.com", False),
        ("https://*.example.com", "https://example.com.evil.com", False),
        ("https://*.example.com", "https://a.example.com.evil.com", False),
        ("https://*.example.com", "https://evil-example.com", False),
        ("https://*.example.com", "http://a.example.com", False),
        ("https://*.example.com", "https://a.example.com:8443", False),
        ("https://*.example.com", "https://evil.com#.example.com", False),
        ("https://*.example.com", "https://evil.com/.example.com", False),
        ("https://*.example.com", "https://evil.com?.example.com", False),
        ("https://*.example.com", "https://evil.com\n.example.com", False),
        ("https://*.example.com", "https://*.example.com", False),
        ("https://a.example.com", "https://axexample.com", False),
        ("http://localhost:*", "http://localhost:5173", True),
        ("http://localhost:*", "http://localhost.evil.com:5173", False),
        ("https://app-*.example.com", "https://app-42.example.com", True),
        ("capacitor://localhost", "capacitor://localhost", True),
        ("capacitor://localhost", "https://localhost", False),
        ("ionic://localhost", "ionic://localhost", True),
        ("tauri://localhost", "tauri://localhost", True),
        ("app://obsidian.md", "app://obsidian.md", True),
        ("chrome-extension://abcdef", "chrome-extension://abcdef", True),
        ("chrome-extension://*", "chrome-extension://abcdef", True),
        ("moz-extension://*", "moz-extension://2f3c-1", True),
        ("file://", "file://", True),
        ("file://", "null", False),
    ],
)
def test_patterns(pattern: str, origin: str, is_allowed: bool) -> None:
    assert (origin in OriginPatterns([pattern])) is is_allowed


labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=4).map(".".join)
hosts = names | st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(lambda ip: f"[{ip}]")
schemes = st.sampled_from(["http", "https", "ws", "wss", "capacitor", "tauri", "chrome-extension"])
ports = st.none() | st.integers(1, 65535)
DEFAULT = {"http": 80, "ws": 80, "https": 443, "wss": 443}


@st.composite
def spellings(draw: st.DrawFn, scheme: str, host: str, port: int | None) -> tuple[str, str]:
    """Draw a spelling of an origin, and of its header Host."""
    default = DEFAULT.get(scheme)

    def spelled() -> str:
        text = host
        if host.startswith("["):
            text = draw(st.sampled_from([host, f"[{ipaddress.IPv6Address(host[1:-1]).exploded}]"]))
        elif draw(st.booleans()):
            text = f"{host}."
        text = text.upper() if draw(st.booleans()) else text
        if port is None or port == default:
            return f"{text}:{default}" if default and draw(st.booleans()) else text
        return f"{text}:{port}"

    return f"{scheme}://{spelled()}", spelled()


@given(st.data(), schemes, hosts, ports)
def test_every_spelling_of_an_origin_is_the_same_origin(
    data: st.DataObject, scheme: str, host: str, port: int | None
) -> None:
    (origin, own), (named, _) = data.draw(spellings(scheme, host, port)), data.draw(spellings(scheme, host, port))

    assert is_of_host(origin, own)
    assert origin in OriginPatterns([named])
    assert canonical(canonical(origin) or "") == canonical(named)


origins = st.tuples(schemes, hosts, ports)


@given(st.data(), origins, origins)
def test_no_spelling_of_another_origin_is(
    data: st.DataObject, first: tuple[str, str, int | None], second: tuple[str, str, int | None]
) -> None:
    (origin, _), (other, other_host) = data.draw(spellings(*first)), data.draw(spellings(*second))
    is_same = first[:2] == second[:2] and _port(*first) == _port(*second)

    assert (origin in OriginPatterns([other])) is is_same
    if first[1] != second[1]:
        assert not is_of_host(origin, other_host)


@given(schemes, names, names)
def test_a_pattern_of_subdomains_selects_them_alone(scheme: str, name: str, other: str) -> None:
    patterns = OriginPatterns([f"{scheme}://*.{name}"])

    assert f"{scheme}://{other}.{name}" in patterns
    assert f"{scheme}://{name}.{other}" not in patterns or f".{name}.{other}".endswith(f".{name}")
    assert f"{scheme}://evil-{name}" not in patterns
    assert f"other://{other}.{name}" not in patterns


def _port(scheme: str, _: str, port: int | None) -> int | None:
    return port or DEFAULT.get(scheme)


@given(st.text(max_size=30), st.text(max_size=20))
def test_no_text_is_an_origin_of_the_host_unless_it_is_one(origin: str, host: str) -> None:
    assert not is_of_host(origin, host) or canonical(origin) is not None
    assert origin not in OriginPatterns(["https://*.example.com", "http://localhost:*"])
