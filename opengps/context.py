"""What a request works with: the database, the settings and the models of its application."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flask import current_app
from sqlalchemy import Engine

from opengps.prediction import catalog

if TYPE_CHECKING:
    from deepgps_core.predictor import ModelInfo


def engine() -> Engine:
    """Return the application's database."""
    found = current_app.extensions["opengps_engine"]
    assert isinstance(found, Engine)
    return found


def settings() -> Mapping[str, Any]:
    """Return the application's settings and limits."""
    return current_app.config


def models() -> dict[str, ModelInfo]:
    """Return the models on offer, by the name they are asked for with."""
    return catalog(tuple(current_app.config["MODELS"]))
