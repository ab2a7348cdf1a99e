from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from roomcast.config import (
    ConfigError,
    Settings,
    masked,
    nearest_variable,
    read_namespaces,
    read_settings,
    require_auth,
    short_keys,
    unknown_variables,
)
from roomcast.model.errors import ClientError
from roomcast.model.maps import ClientKey, MapMode, MapOptions
from tests.support.paths import ROOT


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in unknown_variables():
        monkeypatch.delenv(name)
    for name in Settings.model_fields:
        monkeypatch.delenv(f"ROOMCAST_{name.upper()}", raising=False)


def test_without_any_variable_the_defaults_hold() -> None:
    settings = read_settings()

    assert settings.redis_url == "redis://127.0.0.1:6379/0"
    assert settings.prefix == "roomcast:"
    assert settings.max_message_bytes == 65536
    assert settings.api_key is None


def test_variables_set_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOMCAST_PING_INTERVAL_S", "2.5")
    monkeypatch.setenv("ROOMCAST_PREFIX", "")  # empty counts as not set, as compose passes it

    assert read_settings().ping_interval_s == 2.5
    assert read_settings().prefix == "roomcast:"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ROOMCAST_REDIS_URL", "localhost:6379"),
        ("ROOMCAST_REDIS_URL", "http://localhost"),
        ("ROOMCAST_REDIS_URL", "redis://"),
        ("ROOMCAST_REDIS_URL", "redis://127.0.0.1:99999/0"),
        ("ROOMCAST_REDIS_URL", "redis://127.0.0.1/0?socket_timeout=abc"),
        ("ROOMCAST_REDIS_URL", "redis://127.0.0.1/0?password=TOPSECRET"),
        ("ROOMCAST_PREFIX", "x" * 65),
        ("ROOMCAST_API_KEY", "short"),
        ("ROOMCAST_SECRET", "x" * 31),
        ("ROOMCAST_SECRET", "ß" * 32),
        ("ROOMCAST_PREVIOUS_SECRET", "x" * 31),
        ("ROOMCAST_JWKS_URL", "id.example/keys"),
        ("ROOMCAST_JWKS_URL", "ftp://id.example/keys"),
        ("ROOMCAST_JWKS_URL", "https:///keys"),
        ("ROOMCAST_JWKS_URL", "https://user:password@id.example/keys"),
        ("ROOMCAST_JWKS_URL", "https://id.example/a key"),
        ("ROOMCAST_TOKEN_LEEWAY_S", "-1"),
        ("ROOMCAST_TOKEN_LEEWAY_S", "301"),
        ("ROOMCAST_CHANNEL_LIMIT", "0"),
        ("ROOMCAST_ANONYMOUS", "perhaps"),
        ("ROOMCAST_INSECURE", "perhaps"),
        ("ROOMCAST_MAX_MESSAGE_BYTES", "0"),
        ("ROOMCAST_MAX_MESSAGE_BYTES", "many"),
        ("ROOMCAST_MAX_UNSENT_BYTES", "1"),
        ("ROOMCAST_PING_INTERVAL_S", "-1"),
        ("ROOMCAST_PING_TIMEOUT_S", "nan"),
        ("ROOMCAST_REDIS_TIMEOUT_S", "61"),
        ("ROOMCAST_SHUTDOWN_TIMEOUT_S", "0"),
        ("ROOMCAST_KEEP_ALIVE_S", "0"),
        ("ROOMCAST_ROOT_PATH", "rt"),
        ("ROOMCAST_ROOT_PATH", "/a b"),
        ("ROOMCAST_ROOT_PATH", "//rt"),
        ("ROOMCAST_ROOT_PATH", "https://x.test/rt"),
        ("ROOMCAST_ROOT_PATH", "/ws"),
        ("ROOMCAST_ROOT_PATH", "/api/v1/"),
        ("ROOMCAST_METRICS_INTERVAL_S", "0"),
        ("ROOMCAST_ON_RPC", "no colon"),
        ("ROOMCAST_ON_RPC", "module:"),
        ("ROOMCAST_HOOK_TIMEOUT_S", "0"),
        ("ROOMCAST_HOOK_THREADS", "0"),
        ("ROOMCAST_HOOK_HEADERS", "Cookie,Host"),
        ("ROOMCAST_HOOK_HEADERS", "Cookie X-Id"),
        ("ROOMCAST_PROXY_URL", "localhost:3000"),
        ("ROOMCAST_PROXY_URL", "http://user:TOPSECRET@localhost/"),
        ("ROOMCAST_PROXY_URL", "http://localhost:99999/"),
        ("ROOMCAST_PROXY_URL", "http://localhost/?a=b"),
        ("ROOMCAST_PROXY_EVENTS", "connect,disconnect"),
        ("ROOMCAST_PROXY_TIMEOUT_S", "0"),
        ("ROOMCAST_WEBHOOK_URL", "ftp://localhost/"),
        ("ROOMCAST_WEBHOOK_SECRET", "TOPSECRET"),
        ("ROOMCAST_WEBHOOK_EVENTS", "joined"),
        ("ROOMCAST_LOG_LEVEL", "loud"),
        ("ROOMCAST_LOG_FORMAT", "xml"),
    ],
)
def test_a_bad_value_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigError, match=f"^{name}: "):
        read_settings()


@pytest.mark.parametrize("name", ["API_KEY", "SECRET", "PREVIOUS_SECRET", "WEBHOOK_SECRET"])
def test_short_keys_need_a_setting_that_calls_them_insecure(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("ROOMCAST_SECRET", "x" * 32)
    monkeypatch.setenv(f"ROOMCAST_{name}", "TOPKEY")
    for value in ("", "false"):
        monkeypatch.setenv("ROOMCAST_INSECURE_SHORT_KEYS", value)
        with pytest.raises(ConfigError, match=f"^ROOMCAST_{name}: .*ROOMCAST_INSECURE_SHORT_KEYS") as caught:
            read_settings()
        assert "TOPKEY" not in str(caught.value)

    monkeypatch.setenv("ROOMCAST_INSECURE_SHORT_KEYS", "true")
    assert short_keys(read_settings()) == [f"ROOMCAST_{name}"]

    monkeypatch.setenv(f"ROOMCAST_{name}", "schlüssel")
    with pytest.raises(ConfigError, match=f"^ROOMCAST_{name}: must be ASCII"):
        read_settings()
    monkeypatch.setenv(f"ROOMCAST_{name}", "x" * 32)
    assert short_keys(read_settings()) == []


@pytest.mark.parametrize("prefix", ["{roomcast}:", "{", "}", "a{b}", "{}"])
@pytest.mark.parametrize("scheme", ["redis+cluster", "rediss+cluster"])
def test_a_prefix_has_no_braces_in_a_cluster(monkeypatch: pytest.MonkeyPatch, scheme: str, prefix: str) -> None:
    monkeypatch.setenv("ROOMCAST_PREFIX", prefix)
    assert read_settings().prefix == prefix

    monkeypatch.setenv("ROOMCAST_REDIS_URL", f"{scheme}://127.0.0.1:7000")
    with pytest.raises(ConfigError, match=r"^ROOMCAST_PREFIX has no braces in a cluster"):
        read_settings()


def test_a_client_may_fall_behind_by_two_messages_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOMCAST_MAX_MESSAGE_BYTES", "2000000")

    with pytest.raises(ConfigError, match="ROOMCAST_MAX_UNSENT_BYTES must be at least twice"):
        read_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("secret", "x" * 32),
        ("public_key_file", "key.pem"),
        ("jwks_url", "https://id.example/keys"),
    ],
)
def test_clients_are_checked_or_not_and_not_both(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"ROOMCAST_{name.upper()}", value)
    require_auth(read_settings())

    monkeypatch.setenv("ROOMCAST_INSECURE", "true")

    with pytest.raises(ConfigError, match=f"ROOMCAST_{name.upper()} is for checking clients"):
        read_settings()


def test_a_node_that_could_check_nobody_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="openssl rand -hex 32"):
        require_auth(read_settings())

    monkeypatch.setenv("ROOMCAST_INSECURE", "true")
    require_auth(read_settings())


def test_a_previous_secret_needs_the_one_that_follows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOMCAST_PREVIOUS_SECRET", "x" * 32)
    with pytest.raises(ConfigError, match="ROOMCAST_PREVIOUS_SECRET needs ROOMCAST_SECRET"):
        read_settings()

    monkeypatch.setenv("ROOMCAST_SECRET", "y" * 32)
    require_auth(read_settings())


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_line_end_behind_a_setting_is_no_part_of_it(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """Secrets that are read from files, or made with `echo`, have one."""
    given = {
        "SECRET": "x" * 32,
        "PREVIOUS_SECRET": "y" * 32,
        "API_KEY": "z" * 16,
        "PROXY_URL": "http://a/",
        "PING_INTERVAL_S": "9",
    }
    for name, value in {**given, "PROXY_EVENTS": "rpc", "REDIS_URL": "redis://:s@h:1/0"}.items():
        monkeypatch.setenv(f"ROOMCAST_{name}", value + end)

    settings = read_settings()

    for secret in (settings.secret, settings.previous_secret, settings.api_key):
        assert secret is not None
        assert secret.get_secret_value() in given.values()
    assert (settings.proxy_url, settings.proxy_events, settings.ping_interval_s) == ("http://a/", "rpc", 9)
    assert settings.redis_url == "redis://:s@h:1/0"


def test_every_bad_value_is_named_and_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOMCAST_API_KEY", "hunter2")
    monkeypatch.setenv("ROOMCAST_SECRET", "hunter22")
    monkeypatch.setenv("ROOMCAST_LOG_LEVEL", "loud")

    with pytest.raises(ConfigError) as caught:
        read_settings()

    assert "ROOMCAST_API_KEY" in str(caught.value)
    assert "ROOMCAST_LOG_LEVEL" in str(caught.value)
    assert "ROOMCAST_SECRET" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_shown_settings_mask_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOMCAST_API_KEY", "0123456789abcdef")
    monkeypatch.setenv("ROOMCAST_SECRET", "0123456789abcdef" * 2)
    monkeypatch.setenv("ROOMCAST_REDIS_URL", "rediss://app:s3cret@redis.internal:6380/2")

    shown = masked(read_settings())

    assert shown["ROOMCAST_REDIS_URL"] == "rediss://app:**********@redis.internal:6380/2"
    assert "0123456789abcdef" not in str(shown)


@pytest.mark.parametrize(
    ("name", "value", "missing"),
    [
        ("ROOMCAST_PROXY_URL", "http://localhost:3000/", "ROOMCAST_PROXY_EVENTS"),
        ("ROOMCAST_PROXY_EVENTS", "rpc", "ROOMCAST_PROXY_URL"),
        ("ROOMCAST_WEBHOOK_URL", "http://localhost:3000/", "ROOMCAST_WEBHOOK_SECRET"),
    ],
)
def test_what_belongs_together_is_set_together(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, missing: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigError, match=missing):
        read_settings()


def test_an_origin_is_spelled_as_browsers_send_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOMCAST_ALLOWED_ORIGINS", "https://a.test,https://*.m\u00fcller.example")

    with pytest.raises(ConfigError, match=r"ROOMCAST_ALLOWED_ORIGINS: 'https://\*\.m.ller\.example' is not .*xn--"):
        read_settings()


def test_misspelt_variables_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOMCAST_REDIS_ULR", "redis://x")
    monkeypatch.setenv("roomcast_secrets", "x")  # pydantic reads settings in any case
    monkeypatch.setenv("roomcast_insecure", "true")

    assert unknown_variables() == ["ROOMCAST_REDIS_ULR", "roomcast_secrets"]
    assert nearest_variable("roomcast_secrets") == "ROOMCAST_SECRET"
    assert nearest_variable("ROOMCAST_REDIS_ULR") == "ROOMCAST_REDIS_URL"
    assert nearest_variable("ROOMCAST_XYZ") is None


def test_what_kubernetes_sets_for_a_service_named_roomcast_is_not_misspelt(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {
        "ROOMCAST_SERVICE_HOST": "10.0.0.1",
        "ROOMCAST_SERVICE_PORT": "80",
        "ROOMCAST_SERVICE_PORT_HTTP": "80",
        "ROOMCAST_PORT": "tcp://10.0.0.1:80",
        "ROOMCAST_PORT_80_TCP": "tcp://10.0.0.1:80",
        "ROOMCAST_PORT_80_TCP_PROTO": "tcp",
        "ROOMCAST_REDIS_PORT_6379_TCP_ADDR": "10.0.0.2",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert unknown_variables() == []

    monkeypatch.setenv("ROOMCAST_PORT", "8000")
    assert unknown_variables() == ["ROOMCAST_PORT"]


@pytest.mark.parametrize(("value", "path"), [("/", ""), ("/rt", "/rt"), ("/a/b/", "/a/b"), ("/wsx", "/wsx")])
def test_the_root_path_ends_without_a_slash(monkeypatch: pytest.MonkeyPatch, value: str, path: str) -> None:
    monkeypatch.setenv("ROOMCAST_ROOT_PATH", value)

    assert read_settings().root_path == path


def test_the_docs_name_every_setting_with_its_default() -> None:
    table = (ROOT / "docs" / "settings.md").read_text()

    for name, field in Settings.model_fields.items():
        row = next(line for line in table.splitlines() if line.startswith(f"| `ROOMCAST_{name.upper()}` |"))
        if field.default_factory is None and field.default not in (None, ""):
            shown = f"{field.default:g}" if isinstance(field.default, float) else str(field.default)
            assert row.split(" | ")[1].strip("`") == shown


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        read_settings().prefix = "other:"


def _with_tables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tables: str) -> Settings:
    (tmp_path / "namespaces.toml").write_text(tables)
    monkeypatch.setenv("ROOMCAST_NAMESPACES_FILE", str(tmp_path / "namespaces.toml"))
    return read_settings()


@pytest.mark.parametrize(
    ("tables", "setting", "presence"),
    [
        ("", "", None),
        ("", "true", True),  # as `room`
        ("[default]", "", False),
        ("[default]", "true", False),
        ("[default]", "false", None),
        ("[default]\npresence = true", "", True),
    ],
)
def test_channels_without_a_namespace_are_off_or_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tables: str, setting: str, presence: bool | None
) -> None:
    monkeypatch.setenv("ROOMCAST_DEFAULT_NAMESPACE", setting)
    namespaces = read_namespaces(_with_tables(monkeypatch, tmp_path, tables))

    if presence is None:
        with pytest.raises(ClientError):
            namespaces.of("news")
    else:
        assert namespaces.of("news").presence is presence
    with pytest.raises(ClientError):
        namespaces.of("default:news")


@pytest.mark.parametrize("name", ["ab", "News.v2", "-_", "A1", "x" * 100])
def test_namespaces_may_be_named_as_those_of_centrifugo(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    namespaces = read_namespaces(_with_tables(monkeypatch, tmp_path, f'["{name}"]\npresence = true'))

    assert namespaces.of(f"{name}:a").presence


@pytest.mark.parametrize("name", ["a", "", "a b", "ä" * 2, "a:b", "a#", "$a", "ab\\n", "node"])
def test_other_names_of_namespaces_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    settings = _with_tables(monkeypatch, tmp_path, f'["{name}"]')

    with pytest.raises(ConfigError, match=r"namespaces\.toml: "):
        read_namespaces(settings)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ('[board]\ntype = "map"', r"\[board\] type = .* and the table map go together"),
        ('[board]\ntype = "maps"', r"\[board\.type\] Input should be 'stream', 'map', 'map_clients' or 'map_users'"),
        ('[board.map]\nmode = "persistent"', r"\[board\] type = .* go together"),
        ('[board]\ntype = "map"\n[board.map]', r"\[board\.map\.mode\] Field required"),
        ('[board]\ntype = "map"\n[board.map]\nmode = "kept"', r"\[board\.map\.mode\] Input should be 'ephemeral', "),
        ('[board]\ntype = "map"\n[board.map]\nmode = "ephemeral"', r"\[board\.map\] key_ttl_s of a map in mode "),
        ('[board]\ntype = "map"\n[board.map]\nmode = "persistent"\nkey_ttl = 5', r"\[board\.map\.key_ttl\] Unexpected"),
        (
            '[board]\ntype = "map"\nrecovery = "stream"\n[board.map]\nmode = "persistent"',
            r"\[board\] recovery is not for maps",
        ),
        ('[board]\nclients_map = "onlin"', r'\[board\] clients_map must name a namespace of type "map_clients": there'),
        ('[default]\nusers_map = "online"', r'\[default\] users_map must name .*: its type is "map_clients"'),
        ('[online]\n[board]\nclients_map = "online"', r'\[board\] clients_map must name .*: its type is "stream"'),
    ],
)
def test_a_bad_option_of_a_map_is_reported_with_its_namespace(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tables: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=r"namespaces\.toml: " + message):
        read_namespaces(_with_tables(monkeypatch, tmp_path, tables))


def test_a_map_is_configured_by_its_tables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tables = """
        [board]
        type = "map"
        may_publish = "anyone"
        clients_map = "online"
        map = {mode = "recoverable", key_ttl_s = 30, client_key = "user_id", max_keys = 5}
    """

    board = read_namespaces(_with_tables(monkeypatch, tmp_path, tables)).of("board:a")

    assert board.clients_map == "online"
    assert board.map == MapOptions(mode=MapMode.RECOVERABLE, key_ttl_s=30, client_key=ClientKey.USER_ID, max_keys=5)
