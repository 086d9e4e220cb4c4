"""Where settings come from, which wins, and what a wrong one says."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from slipway.errors import SettingsError
from slipway.settings import CONNECTION_FILE, Settings, as_environment, load_settings


def write_platform(home: Path) -> None:
    home.mkdir(parents=True)
    (home / CONNECTION_FILE).write_bytes(
        msgspec.json.encode({"s3": {"endpoint": "http://127.0.0.1:1234", "access_key": "from-platform"}})
    )


def test_defaults_keep_all_state_in_one_folder(tmp_path: Path) -> None:
    settings = load_settings({}, directory=tmp_path)
    assert settings.profile == "local"
    assert settings.home == str(tmp_path / ".slipway")
    assert settings.tracking.uri == f"sqlite:///{tmp_path}/.slipway/mlflow.db"
    assert settings.features.registry == f"sqlite:///{tmp_path}/.slipway/feast.db"


def test_environment_beats_file_beats_platform_beats_profile(tmp_path: Path) -> None:
    write_platform(tmp_path / ".slipway")
    (tmp_path / "slipway.toml").write_text('[s3]\nregion = "from-file"\naccess_key = "from-file"\n')
    settings = load_settings({"SLIPWAY_S3_REGION": "from-environment"}, directory=tmp_path)
    assert settings.s3.region == "from-environment"
    assert settings.s3.access_key == "from-file"
    assert settings.s3.endpoint == "http://127.0.0.1:1234"
    assert settings.s3.bucket == "slipway"


def test_platform_addresses_are_for_the_local_profile_only(tmp_path: Path) -> None:
    write_platform(tmp_path / ".slipway")
    settings = load_settings({"SLIPWAY_PROFILE": "kind"}, directory=tmp_path)
    assert settings.s3.endpoint == "http://seaweedfs.slipway.svc:8333"
    assert settings.s3.access_key is None
    assert load_settings({"SLIPWAY_PROFILE": "eks"}, directory=tmp_path).s3.endpoint is None


def test_home_moves_the_state(tmp_path: Path) -> None:
    write_platform(tmp_path / "elsewhere")
    settings = load_settings({"SLIPWAY_HOME": str(tmp_path / "elsewhere")}, directory=tmp_path)
    assert settings.s3.access_key == "from-platform"
    assert settings.features.registry == f"sqlite:///{tmp_path}/elsewhere/feast.db"


def test_environment_text_is_read_as_the_type_of_its_field(tmp_path: Path) -> None:
    settings = load_settings(
        {"SLIPWAY_S3_ATTEMPTS": "7", "SLIPWAY_ONLINE_TIMEOUT": "0.5", "SLIPWAY_ONLINE_CLUSTER": "true"},
        directory=tmp_path,
    )
    assert (settings.s3.attempts, settings.online.timeout, settings.online.cluster) == (7, 0.5, True)


def test_kubernetes_service_links_are_no_settings(tmp_path: Path) -> None:
    links = {
        "SLIPWAY_VALKEY_SERVICE_HOST": "10.0.0.1",
        "SLIPWAY_VALKEY_SERVICE_PORT_RESP": "6379",
        "SLIPWAY_VALKEY_PORT": "tcp://10.0.0.1:6379",
        "SLIPWAY_VALKEY_PORT_6379_TCP_ADDR": "10.0.0.1",
    }
    assert load_settings(links, directory=tmp_path) == load_settings({}, directory=tmp_path)


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("SLIPWAY_PROFILE", "prod", "use one of: local, kind, eks"),
        ("SLIPWAY_S3_BUKKET", "x", "SLIPWAY_S3_BUCKET"),
        ("SLIPWAY_COLOUR", "x", "SLIPWAY_PROFILE"),
        ("SLIPWAY_S3_ATTEMPTS", "many", "SLIPWAY_S3_ATTEMPTS='many': Expected `int`, got `str`"),
        ("SLIPWAY_CONFIG", "absent.toml", "SLIPWAY_CONFIG names a file that is not there"),
    ],
)
def test_a_wrong_variable_is_named_with_what_is_allowed(
    tmp_path: Path, variable: str, value: str, says: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({variable: value}, directory=tmp_path)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[s3]\nbukket = 'x'\n", "there is no setting s3.bukket"),
        ("[s3]\nattempts = 'x'\n", "setting s3.attempts: Expected `int`, got `str`"),
        ("colour = 'x'\n", "there is no setting colour"),
        ("s3 = 'x'\n", "write a table: [s3]"),
        ("[s3\n", "not readable as TOML"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "slipway.toml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings({}, directory=tmp_path)
    assert says in str(caught.value)
    assert str(tmp_path / "slipway.toml") in str(caught.value)


def test_a_damaged_connection_file_tells_how_to_mend_it(tmp_path: Path) -> None:
    (tmp_path / ".slipway").mkdir()
    (tmp_path / ".slipway" / CONNECTION_FILE).write_text('{"s3": {"endp')
    with pytest.raises(SettingsError, match="slipway up"):
        load_settings({}, directory=tmp_path)


def test_secrets_stay_out_of_the_printed_form(tmp_path: Path) -> None:
    settings = load_settings(
        {"SLIPWAY_S3_SECRET_KEY": "hush-hush", "SLIPWAY_ONLINE_URL": "redis://:hush-hush@127.0.0.1:1/0"},
        directory=tmp_path,
    )
    assert settings.s3.secret_key == "hush-hush"
    assert "hush-hush" not in repr(settings)
    assert "127.0.0.1:1/0" in repr(settings)


def test_uri_joins_without_doubled_slashes() -> None:
    assert Settings().uri("models/", "/delay", "v1") == "s3://slipway/models/delay/v1"


def test_settings_as_variables_are_the_same_settings_elsewhere(tmp_path: Path) -> None:
    write_platform(tmp_path / ".slipway")
    given = {
        "SLIPWAY_ONLINE_CLUSTER": "true",
        "SLIPWAY_ONLINE_TIMEOUT": "0.5",
        "SLIPWAY_S3_SECRET_KEY": "a' $c",
    }
    settings = load_settings(given, directory=tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert load_settings(as_environment(settings), directory=elsewhere) == settings
