"""Settings: which source wins, and what is said about a wrong value."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import settings
from jobs.errors import UsageError


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in settings.Settings.model_fields:
        monkeypatch.delenv(settings.PREFIX + name.upper(), raising=False)
    for variable in ("XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def source_of(name: str, flags: dict[str, object] | None = None) -> tuple[object, str]:
    return next((each.value, each.source) for each in settings.explain(flags) if each.name == name)


def test_flags_win_over_environment_over_file_over_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert source_of("replicas") == ("1", "default")
    Path("jobs.toml").write_text('replicas = "2"\n')
    assert source_of("replicas") == ("2", str(Path("jobs.toml").absolute()))
    monkeypatch.setenv("JOBS_REPLICAS", "3")
    assert source_of("replicas") == ("3", "environment JOBS_REPLICAS")
    assert source_of("replicas", {"replicas": "4"}) == ("4", "flag --replicas")
    assert source_of("replicas", {"replicas": None}) == ("3", "environment JOBS_REPLICAS")


def test_working_directory_file_hides_the_users(tmp_path: Path) -> None:
    user = tmp_path / "XDG_CONFIG_HOME" / "nightbatch"
    user.mkdir(parents=True)
    (user / "jobs.toml").write_text('engine = "fake"\nreplicas = "7"\n')
    assert settings.load().engine == "fake"
    Path("jobs.toml").write_text('replicas = "2..4"\n')
    assert (settings.load().engine, settings.load().replicas) == ("vllm", "2..4")


def test_unknown_key_names_file_and_nearest_setting() -> None:
    Path("jobs.toml").write_text('replcas = "2"\n')
    with pytest.raises(UsageError, match=r"jobs\.toml sets 'replcas', .*; did you mean `replicas`\?"):
        settings.load()


def test_broken_file_is_named() -> None:
    Path("jobs.toml").write_text("replicas = = 2\n")
    with pytest.raises(UsageError, match=r"Cannot read the settings in .*jobs\.toml: .*line 1"):
        settings.load()


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("replicas", "many", "write 8 or 2..16"),
        ("replicas", "4..2", "larger than the second"),
        ("engine", "cuda", "must be vllm or fake"),
        ("address", "ray://head:10001", "is not the dashboard"),
        ("root", "  ", "it is empty"),
        ("gpu_hour_price", "-1", "of at least 0"),
    ],
)
def test_wrong_value_says_source_and_reason(
    name: str, value: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"JOBS_{name.upper()}", value)
    with pytest.raises(UsageError) as caught:
        settings.load()
    assert f"environment JOBS_{name.upper()}" in str(caught.value)
    assert reason in str(caught.value)


def test_places_are_made_absolute() -> None:
    loaded = settings.load({"root": "out", "address": "head:8265/", "token_path": "token"})
    assert loaded.root == str(Path("out").absolute())
    assert loaded.address == "http://head:8265"
    assert loaded.token_path == Path("token").absolute()
    assert settings.load({"root": "s3://bucket/prefix/"}).root == "s3://bucket/prefix"
