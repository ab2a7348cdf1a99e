"""Keys and tokens for tests, as an application or an identity provider would make them."""

from __future__ import annotations

import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, SECP521R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

SECRET = "0123456789abcdef" * 4
PrivateKey = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey

_CURVES = {"ES256": SECP256R1(), "ES384": SECP384R1(), "ES512": SECP521R1()}


def private_key(algorithm: str, *, bits: int = 2048) -> PrivateKey:
    """Return a new key that signs with this algorithm."""
    if algorithm.startswith("RS"):
        return generate_rsa_key(65537, bits)
    return Ed25519PrivateKey.generate() if algorithm == "EdDSA" else generate_ec_key(_CURVES[algorithm])


def public_pem(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def public_jwk(key: PrivateKey, **members: object) -> dict[str, Any]:
    if isinstance(key, RSAPrivateKey):
        jwk = RSAAlgorithm.to_jwk(key.public_key())
    elif isinstance(key, Ed25519PrivateKey):
        jwk = OKPAlgorithm.to_jwk(key.public_key())
    else:
        jwk = ECAlgorithm.to_jwk(key.public_key())
    return {**json.loads(jwk), **members}


def now_s() -> int:
    """Return the Unix time now: tests of the whole suite run long after their files were read."""
    return int(time.time())


def token(user: str = "ada", *, ttl_s: int = 3600, **claims: Any) -> str:
    """Return a connection token, or with the claim `channel` a subscription token. ttl_s: negative, it has expired."""
    return signed({"sub": user, "exp": now_s() + ttl_s, **claims})


def signed(claims: dict[str, Any], key: str | PrivateKey = SECRET, algorithm: str = "HS256", **headers: object) -> str:
    """Return a token with these claims, good for an hour unless they say otherwise."""
    return jwt.encode({"exp": now_s() + 3600, **claims}, key, algorithm, headers=headers)
