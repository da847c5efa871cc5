"""The made-up world and its tiny encoders, made once."""

from pathlib import Path

import pytest
from finetune_world import World, make_bert, make_llama, make_world


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny encoder-only model."""
    return make_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny decoder."""
    return make_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A fresh run directory with the artifacts of the earlier stages."""
    return make_world(tmp_path / "run")
