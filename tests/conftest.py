"""What several test files share: the real data's place, and a data root of each test's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings


def pytest_configure() -> None:
    """Keep TensorFlow's start-up messages and progress bars out of the report, and time nothing."""
    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")  # hypothesis would fail a property that takes over 200 ms
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TQDM_DISABLE", "1")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of third-party data, or skip."""
    folder = os.environ.get("DEEPGPS_REAL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("DEEPGPS_REAL_DATA names no folder of third-party data")
    return Path(folder)


@pytest.fixture(autouse=True)
def data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point every test at an empty data root, so that none sees another's datasets."""
    monkeypatch.setenv("DEEPGPS_DATA", str(tmp_path / "data"))
    return tmp_path / "data"
