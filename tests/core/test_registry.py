"""Registries: the closed list of what a file may name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

import dist_ai.core.registry as registry_module
from dist_ai.core.registry import Registry
from dist_ai.errors import ArtifactError, ConfigError


class Application:
    """An entry point of an installed package."""

    def __init__(self, value: str, load: Callable[[], Any]) -> None:
        self.value = value
        self.load = load


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Returns `install(*applications)`: these are the installed ones."""

    def install(*applications: Application) -> None:
        monkeypatch.setattr(
            registry_module, "entry_points", lambda group: {"dist_ai.applications": applications}[group]
        )

    install()
    return install


def make_model() -> str:
    return "a model"


def of_another_module() -> str: ...


of_another_module.__module__ = "somebody_elses"


@pytest.fixture
def models(install: Any) -> Registry[Any]:
    return Registry("model", "decorate it with @register")


def test_what_is_registered_is_found_by_its_name(models: Registry[Any]):
    assert models.register("small")(make_model) is make_model
    models.add("another", make_model)
    assert models.find("small") is make_model
    assert list(models) == ["another", "small"]
    assert "small" in models
    assert "large" not in models


def test_a_missing_name_says_what_is_near_and_what_to_do(models: Registry[Any]):
    models.add("resnet18", make_model)
    message = "model 'resnet81' is not known in this program; did you mean 'resnet18'?; decorate it with @register"
    with pytest.raises(ArtifactError, match=f"^{re.escape(message)}$"):
        models.find("resnet81")


def test_a_name_taken_by_another_module_is_refused(models: Registry[Any]):
    models.add("small", make_model)
    message = (
        f"model 'small' of somebody_elses has the name of the one in {__name__}; files find it by that name, "
        "so give it another"
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        models.add("small", of_another_module)
    assert models.find("small") is make_model


def test_a_module_may_define_its_own_again(models: Registry[Any]):
    def make_model_again() -> None: ...

    models.add("small", make_model)
    models.add("small", make_model_again)
    assert models.find("small") is make_model_again


def test_a_missing_name_makes_the_installed_applications_register_theirs(models: Registry[Any], install: Any):
    loaded = []

    def load() -> None:
        loaded.append(1)
        models.add("theirs", make_model)

    install(Application("their_package", load))
    models.add("mine", make_model)
    assert models.find("mine") is make_model
    assert loaded == []  # what is known costs no import
    assert models.find("theirs") is make_model
    assert loaded == [1]


def test_a_broken_application_does_not_hide_the_others_and_is_named_when_nothing_is_found(
    models: Registry[Any], install: Any
):
    def fail() -> None:
        raise ImportError("no module named 'extra'")

    install(Application("broken_package", fail), Application("good", lambda: models.add("theirs", make_model)))
    assert models.find("theirs") is make_model
    message = "The application broken_package cannot be imported: ImportError: no module named 'extra'"
    with pytest.raises(ArtifactError, match=re.escape(message)):
        models.find("nowhere")
