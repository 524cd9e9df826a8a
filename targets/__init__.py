"""The targets of a stream, made from its settings. Each is a file here; which there are is ``registry``'s."""

from __future__ import annotations

from typing import Any

from docdb_stream.errors import ConfigError, DocdbStreamError
from docdb_stream.registry import TARGETS as TARGETS
from docdb_stream.registry import load, registered, switches
from docdb_stream.settings import Settings
from docdb_stream.target import Target, distinct


def target_names(settings: Settings) -> tuple[str, ...]:
    """The targets that are switched on, in the order of TARGETS, then those of other packages."""
    on = (name for name in TARGETS if name in settings.targets and settings.targets[name].is_on)
    return (*on, *settings.extra_targets)


def build_targets(settings: Settings) -> list[Target]:
    """Construct every target that ``settings`` switch on, in the order of ``target_names``.

    Raises:
        ConfigError: None is switched on, one is unknown, a package is missing, a target's settings are wrong, or two
            have the same name.
    """
    on = target_names(settings)
    if not on:
        raise ConfigError(
            f"stream {settings.stream_name} has no target",
            hint="switch one on with " + ", ".join(switch.upper() for switch in switches().values()),
        )
    built_in = len(on) - len(settings.extra_targets)
    classes = [(name, load(TARGETS[name])) for name in on[:built_in]]
    classes += [(name, registered(name)) for name in on[built_in:]]
    return distinct(_construct(name, found, settings) for name, found in classes)


def _construct(name: str, found: Any, settings: Settings) -> Target:
    try:
        target = found.from_settings(settings) if hasattr(found, "from_settings") else found()
    except DocdbStreamError:
        raise
    except Exception as error:
        raise ConfigError(
            f"target {name} cannot be made: {type(error).__name__}: {error}", hint="check the settings of this target"
        ) from error
    if not isinstance(target, Target):
        raise ConfigError(
            f"target {name} is not a docdb_stream.Target: it needs name, write, flush and close",
            hint="ask who made it, or leave it out of extra_targets",
        )
    return target
