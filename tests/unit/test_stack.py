"""What `atlas up` starts: never beside somebody else's server, and gone when it is told to stop."""

from __future__ import annotations

import socket

import pytest

from components.core.errors import ConfigError
from components.core.settings import Settings
from pipelines import scenario, stack


def test_a_taken_port_is_refused_before_anything_starts(settings: Settings) -> None:
    chosen = scenario.find("ocr", settings)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = chosen.model_copy(update={"serving": chosen.serving.model_copy(update={"port": other.getsockname()[1]})})
        with pytest.raises(ConfigError, match=r"taken -> change serving\.port"):
            stack.start_serving(taken, settings)
    assert stack.down(settings) == []


def test_a_copied_scenario_gets_a_port_of_its_own(settings: Settings) -> None:
    folder = settings.home / "scenarios"
    for name in ("loans", "rents"):
        scenario.copy("credit", name, folder, settings)
    ports = [scenario.find(name, settings).serving.port for name in scenario.names(settings)]
    assert len(set(ports)) == len(ports) == 6
