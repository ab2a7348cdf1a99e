"""Keys that verify tokens: secrets and public keys, each for its own algorithms only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, SECP521R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt import PyJWK
from jwt.algorithms import HMACAlgorithm
from jwt.exceptions import PyJWTError

from roomcast.config import ENV_PREFIX, ConfigError, Settings
from roomcast.model.json import JsonObject

# RFC 7518 3.2: a secret has at least as many bytes as the hash.
_SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
_RSA_ALGORITHMS = frozenset({"RS256", "RS384", "RS512"})
_CURVES = {SECP256R1: "ES256", SECP384R1: "ES384", SECP521R1: "ES512"}
PUBLIC_KEY_ALGORITHMS = frozenset({*_RSA_ALGORITHMS, *_CURVES.values(), "EdDSA"})
# RFC 7518 3.3.
_MIN_RSA_BITS = 2048


@dataclass(frozen=True, slots=True)
class Key:
    """A key and the algorithms that it may be used with; the `alg` of a token only selects among them."""

    material: Any  # str of a secret, or one of cryptography's public keys
    algorithms: frozenset[str]


def secret_key(secret: str, *, may_be_short: bool = False) -> Key:
    """Return the key of a shared secret. Raises: ValueError for the text of a public key.

    Args:
        may_be_short: use it also with hashes that are longer (ROOMCAST_INSECURE_SHORT_KEYS).
    """
    try:
        HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
    except PyJWTError:
        raise ValueError("is a key of another kind, not a secret") from None
    sizes = _SECRET_BYTES.items()
    return Key(secret, frozenset(name for name, size_bytes in sizes if may_be_short or len(secret) >= size_bytes))


def pem_key(pem: bytes) -> Key:
    """Return the public key of a PEM text. Raises: ValueError with the reason."""
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("no public key in PEM (-----BEGIN PUBLIC KEY-----)") from None
    return Key(key, _algorithms_of(key))


def jwk_key(jwk: JsonObject) -> Key:
    """Return the public key of a JWK. Raises: ValueError for a private key, or one that is not for signatures."""
    if jwk.get("kty") not in ("RSA", "EC", "OKP") or "d" in jwk:
        raise ValueError("not a public key")
    uses = jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or not isinstance(uses, list) or "verify" not in uses:
        raise ValueError("not for checking signatures")
    try:
        # Without its `alg`, which would select the parser of the other members.
        key = PyJWK({name: value for name, value in jwk.items() if name != "alg"}).key
    except (PyJWTError, ValueError, TypeError, KeyError, UnsupportedAlgorithm, OverflowError) as exc:
        raise ValueError(f"unusable ({type(exc).__name__})") from None
    algorithms = frozenset(name for name in _algorithms_of(key) if jwk.get("alg", name) == name)
    if not algorithms:
        raise ValueError("of no algorithm that is taken here")
    return Key(key, algorithms)


def local_keys(settings: Settings) -> list[Key]:
    """Return the keys in the settings: secret, previous secret, public key file. Raises: ConfigError."""
    keys = []
    for name, secret in (("SECRET", settings.secret), ("PREVIOUS_SECRET", settings.previous_secret)):
        if secret is not None:
            try:
                keys.append(secret_key(secret.get_secret_value(), may_be_short=settings.insecure_short_keys))
            except ValueError as exc:
                raise ConfigError(f"{ENV_PREFIX}{name}: {exc}") from None
    path = settings.public_key_file
    if path is not None:
        try:
            keys.append(pem_key(path.read_bytes()))
        except (OSError, ValueError) as exc:
            raise ConfigError(f"{ENV_PREFIX}PUBLIC_KEY_FILE: {path}: {exc}") from None
    return keys


def _algorithms_of(key: object) -> frozenset[str]:
    """Return the algorithms of a public key. Raises: ValueError."""
    if isinstance(key, RSAPublicKey):
        if key.key_size < _MIN_RSA_BITS:
            raise ValueError(f"an RSA key of {key.key_size} bits, less than {_MIN_RSA_BITS}")
        return _RSA_ALGORITHMS
    if isinstance(key, EllipticCurvePublicKey) and type(key.curve) in _CURVES:
        return frozenset({_CURVES[type(key.curve)]})
    if isinstance(key, Ed25519PublicKey | Ed448PublicKey):
        return frozenset({"EdDSA"})
    raise ValueError("a key of another kind than RSA, P-256, P-384, P-521 or Ed25519")
