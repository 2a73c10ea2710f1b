"""The kinds of models that a run can hold, by the name their configuration gives itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepgps_core.dataset import InputError
from deepgps_core.flow import FlowConfig, FlowGPS
from deepgps_core.model import DeepGPS, DeepGPSConfig

#: family -> configuration and network; "" is the published one, whose configuration has no name.
FAMILIES: Mapping[str, tuple[type[DeepGPSConfig], type[DeepGPS]]] = {
    "": (DeepGPSConfig, DeepGPS),
    "flow": (FlowConfig, FlowGPS),
}


def config_class(settings: Mapping[str, Any]) -> type[DeepGPSConfig]:
    """
    Return the class of a model's settings.

    Raises
    ------
    InputError
        If they name an unknown family.
    """
    family = str(settings.get("family", ""))
    if family not in FAMILIES:
        known = ", ".join(name for name in FAMILIES if name)
        raise InputError(f"model: family {family!r} is unknown; leave it out or choose {known}.")
    return FAMILIES[family][0]


def build_model(config: DeepGPSConfig) -> DeepGPS:
    """Make the network of a configuration, untrained."""
    return next(model for kind, model in FAMILIES.values() if kind is type(config))(config)
