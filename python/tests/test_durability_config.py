"""The table `[durability]`, and providers of other packages."""

from __future__ import annotations

import asyncio
import importlib
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from checkpoints_support import PlainProvider

from durable_monty.checkpoints import (
    CheckpointManager,
    CheckpointProvider,
    CheckpointWarning,
    DurabilityConfig,
    FilesystemCheckpointProvider,
    InvalidCheckpoint,
    checkpoint_providers,
    get_checkpoint_provider,
    open_manager,
    register_checkpoint_provider,
    registry,
)


@pytest.fixture(autouse=True)
def _registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before, found = dict(registry._providers), registry._found
    monkeypatch.chdir(tmp_path)
    yield
    registry._providers.clear()
    registry._providers.update(before)
    registry._found = found


def test_arguments_count_more_than_the_environment_and_that_more_than_the_file(
    tmp_path: Path,
) -> None:
    assert DurabilityConfig.load(environment={}) == DurabilityConfig()
    (tmp_path / "playbooks.toml").write_text(
        '[durability]\nenabled = true\nstorage_path = "file"\nkeep_last_n = 3\n[other]\nx = 1\n'
    )
    from_file = DurabilityConfig(enabled=True, storage_path="file", keep_last_n=3)
    assert DurabilityConfig.load(environment={}) == from_file
    environment = {
        "DURABLE_DURABILITY_STORAGE_PATH": "environment",
        "DURABLE_DURABILITY_KEEP_LAST_N": "4",
        "DURABLE_DB": "sqlite:///x.db",
    }
    config = DurabilityConfig.load(environment=environment, keep_last_n=5)
    assert config == DurabilityConfig(enabled=True, storage_path="environment", keep_last_n=5)
    (tmp_path / "durable.toml").write_text("[durability]\nenabled = false\n")
    assert not DurabilityConfig.load(environment={}).enabled
    named = DurabilityConfig.load("playbooks.toml", environment={})
    assert named == from_file


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("storage_pth = '.x'", "durable.toml.*'storage_pth': did you mean 'storage_path'"),
        ("enabled = 'yes'", "enabled is 'yes': expected true or false"),
        ("enabled = 1", "expected true or false"),
        ("keep_last_n = 0", "keep_last_n is 0: expected a whole number, at least 1"),
        ("keep_last_n = 2.5", "expected a whole number"),
        ("max_checkpoint_size_mb = -1", "more than 0"),
        ("storage_type = ''", "expected text"),
        ("enabled = ", "durable.toml: "),
    ],
)
def test_a_mistake_in_the_file_is_refused(tmp_path: Path, table: str, expected: str) -> None:
    (tmp_path / "durable.toml").write_text(f"[durability]\n{table}\n")
    with pytest.raises(ValueError, match=expected):
        DurabilityConfig.load(environment={})


def test_a_mistake_elsewhere_is_refused() -> None:
    load = DurabilityConfig.load
    with pytest.raises(ValueError, match=r"DURABLE_DURABILITY_ENABELD: .*'enabled'"):
        load(environment={"DURABLE_DURABILITY_ENABELD": "true"})
    with pytest.raises(ValueError, match="DURABLE_DURABILITY_ENABLED is 'maybe'"):
        load(environment={"DURABLE_DURABILITY_ENABLED": "maybe"})
    with pytest.raises(ValueError, match="'keep_last': did you mean 'keep_last_n'"):
        load(environment={}, keep_last=3)
    with pytest.raises(ValueError, match=r"nowhere\.toml: there is no such file"):
        load("nowhere.toml", environment={})
    with pytest.raises(ValueError, match="'filesistem': did you mean 'filesystem'"):
        load(environment={}, enabled=True, storage_type="filesistem").open_provider()


def test_what_is_disabled_touches_nothing(tmp_path: Path) -> None:
    async def body() -> None:
        async with open_manager("e", DurabilityConfig.load(environment={})) as manager:
            assert await manager.save_checkpoint("pass", {"lock": object()}, {}, []) is None
            assert await manager.get_latest_checkpoint() is None

    asyncio.run(body())
    assert list(tmp_path.iterdir()) == []
    # Nothing of the engine is even loaded.
    script = """
import asyncio, sys
from durable_monty.checkpoints import open_manager
asyncio.run(open_manager("e").save_checkpoint("pass", {}, {}, []))
assert "durable_monty._internal" not in sys.modules and "sqlalchemy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)


def test_what_is_enabled_is_kept_where_the_table_says(tmp_path: Path) -> None:
    (tmp_path / "durable.toml").write_text(
        '[durability]\nenabled = true\nstorage_path = "kept"\nkeep_last_n = 2\n'
    )

    async def body() -> None:
        async with open_manager("e") as manager:
            for _ in range(4):
                await manager.save_checkpoint("pass", {}, {}, [])

    asyncio.run(body())
    kept = FilesystemCheckpointProvider(tmp_path / "kept")
    assert asyncio.run(kept.list_checkpoints("e")) == ["e_ckpt_3", "e_ckpt_4"]


@pytest.mark.parametrize("keep_last_n", [3, 25])
def test_the_manager_sees_to_what_the_provider_does_not_know(keep_last_n: int) -> None:
    register_checkpoint_provider(PlainProvider, "plain")

    async def body() -> None:
        config = DurabilityConfig(enabled=True, storage_type="plain", keep_last_n=keep_last_n)
        async with open_manager("e", config) as manager:
            for _ in range(30):
                await manager.save_checkpoint("pass", {}, {}, [])
            assert len(await manager.list_checkpoints()) == keep_last_n

    asyncio.run(body())


def test_a_setting_that_nobody_heeds_is_refused() -> None:
    register_checkpoint_provider(PlainProvider, "plain")
    config = DurabilityConfig(enabled=True, storage_type="plain", max_checkpoint_size_mb=2)
    with pytest.raises(InvalidCheckpoint, match=r"max_checkpoint_size_mb is 2, .*'plain'"):
        open_manager("e", config)
    with pytest.raises(InvalidCheckpoint, match=r"PlainProvider takes no max_size_mb"):
        get_checkpoint_provider("plain", max_size_mb=2)


# Providers of other packages

PLUGIN = """
from durable_monty.checkpoints import CheckpointProvider

class {kind}(CheckpointProvider):
    storage_type = {storage_type!r}

    def __init__(self, storage_path, keep_last_n=1):
        self.path, self.keep = storage_path, keep_last_n

    async def save_checkpoint(self, checkpoint_id, execution_state, namespace, metadata): ...
    async def load_checkpoint(self, checkpoint_id): ...
    async def list_checkpoints(self, execution_id): return []
    async def delete_checkpoint(self, checkpoint_id): ...
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a package with an entry point."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    names: list[str] = []

    def installing(package: str, code: str, entry: str, group: str) -> None:
        names.append(package)
        (site / f"{package}.py").write_text(textwrap.dedent(code))
        info = site / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{entry}\n")
        importlib.invalidate_caches()
        registry._found = False

    yield installing
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("group", ["durable_monty.extensions", "playbooks.extensions"])
def test_a_provider_of_another_package_is_found(install: Install, group: str) -> None:
    code = PLUGIN.format(kind="Vault", storage_type="vault")
    install("vaultpkg", code, "checkpoint_provider = vaultpkg:Vault", group)
    config = DurabilityConfig.load(
        environment={}, enabled=True, storage_type="vault", storage_path="place", keep_last_n=7
    )
    provider: Any = config.open_provider()
    assert type(provider).__name__ == "Vault"
    assert (provider.path, provider.keep) == ("place", 7)
    assert "filesystem" in checkpoint_providers()


def test_one_without_a_type_is_called_like_its_package(install: Install) -> None:
    code = PLUGIN.format(kind="Enterprise", storage_type="")
    install(
        "enterprisepkg", code, "checkpoint_provider = enterprisepkg:Enterprise",
        "playbooks.extensions",
    )  # fmt: skip
    assert type(get_checkpoint_provider("enterprisepkg", "x")).__name__ == "Enterprise"


def test_one_made_for_the_base_class_of_the_original_is_taken(install: Install) -> None:
    code = PLUGIN.format(kind="Old", storage_type="old").replace("(CheckpointProvider)", "")
    code += "    async def cleanup_old_checkpoints(self, execution_id, keep_last_n=10): return 0\n"
    install("oldpkg", code, "checkpoint_provider = oldpkg:Old", "playbooks.extensions")
    provider = get_checkpoint_provider("old", "x")
    assert isinstance(provider, CheckpointProvider)
    saved = asyncio.run(CheckpointManager("e", provider).save_checkpoint("pass", {}, {}, []))
    assert saved == "e_ckpt_1"


def test_nothing_is_silently_overwritten(install: Install) -> None:
    code = PLUGIN.format(kind="Mine", storage_type="filesystem")
    install("minepkg", code, "checkpoint_provider = minepkg:Mine", "durable_monty.extensions")
    with pytest.warns(CheckpointWarning, match=r"minepkg:Mine .*it is known as 'minepkg:filesy"):
        known = checkpoint_providers()
    assert known["filesystem"] is FilesystemCheckpointProvider
    assert known["minepkg:filesystem"].__name__ == "Mine"
    with pytest.raises(ValueError, match="'filesystem' is that of"):
        register_checkpoint_provider(known["minepkg:filesystem"], "filesystem")
    register_checkpoint_provider(known["minepkg:filesystem"], "filesystem", replace=True)
    assert checkpoint_providers()["filesystem"].__name__ == "Mine"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("import nowhere_to_be_found", "ModuleNotFoundError"),
        ("x = 1", "AttributeError"),
        ("Broken = 3", "is no class"),
        ("class Broken: pass", "has no save_checkpoint"),
    ],
)
def test_a_broken_plugin_is_a_warning_with_its_name(
    install: Install, code: str, expected: str
) -> None:
    install("brokenpkg", code, "checkpoint_provider = brokenpkg:Broken", "playbooks.extensions")
    with pytest.warns(CheckpointWarning, match=f"brokenpkg:Broken of brokenpkg .*{expected}"):
        assert "filesystem" in checkpoint_providers()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checkpoint_providers()  # told once
