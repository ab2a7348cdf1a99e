"""The cost of checking a token, by algorithm: `python -m tests.bench.tokens`, a few seconds, no server."""

from __future__ import annotations

import asyncio
import time
from importlib.metadata import version

from roomcast.auth.keys import pem_key, secret_key
from roomcast.auth.permissions import Action, Client, Grant, may
from roomcast.auth.tokens import TokenVerifier
from roomcast.model.namespaces import Namespace
from tests.bench.machine import describe_machine
from tests.support.tokens import SECRET, private_key, public_pem, signed

CLAIMS = {
    "sub": "42",
    "iat": int(time.time()),
    "info": {"name": "Ada"},
    "permissions": [{"channels": ["room:*"], "allow": ["subscribe", "publish"]}],
}
ALGORITHMS = ("HS256", "HS384", "HS512", "RS256", "ES256", "ES384", "ES512", "EdDSA")
_ROUND_S = 0.2
_ROUND_COUNT = 5


async def measure(algorithm: str) -> tuple[float, int]:
    """Return the us that one token takes, the best of some rounds, and the token's length."""
    if algorithm.startswith("HS"):
        token, key = signed(CLAIMS, SECRET, algorithm), secret_key(SECRET)
    else:
        private = private_key(algorithm)
        token, key = signed(CLAIMS, private, algorithm), pem_key(public_pem(private))
    verifier = TokenVerifier([key], leeway_s=5)
    best_us = float("inf")
    for _ in range(_ROUND_COUNT):
        count, started_s = 0, time.perf_counter()
        while time.perf_counter() - started_s < _ROUND_S:
            await verifier.connection(token)
            count += 1
        best_us = min(best_us, (time.perf_counter() - started_s) / count * 1e6)
    return best_us, len(token)


def measure_permission(grant_count: int) -> float:
    """Return the us that one decision takes of a client whose last grant is the one that fits."""
    actions = frozenset({Action.PUBLISH})
    grants = [Grant(f"draw:team-{number}-*", actions) for number in range(grant_count)]
    client, namespace = Client("42", (*grants, Grant("room:*", actions))), Namespace()
    count = 20_000
    started_s = time.perf_counter()
    for _ in range(count):
        may(Action.PUBLISH, "room:lobby", namespace, client, is_subscribed=True)
    return (time.perf_counter() - started_s) / count * 1e6


async def main() -> None:
    """Print a line for each algorithm."""
    print(describe_machine())
    print(f"PyJWT {version('pyjwt')}, cryptography {version('cryptography')}")
    for algorithm in ALGORITHMS:
        took_us, length = await measure(algorithm)
        print(f"{algorithm}: {took_us:.0f} us for a token of {length} bytes")
    for grant_count in (1, 10, 64):
        print(f"a decision with {grant_count} grants: {measure_permission(grant_count - 1):.1f} us")


if __name__ == "__main__":
    asyncio.run(main())
