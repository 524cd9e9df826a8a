"""What the settings of targets have in common; which there are, each target's own file says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from docdb_stream.errors import ConfigError
from docdb_stream.position import Namespace
from docdb_stream.settings.model import SettingsModel, names


class TargetSettings(SettingsModel):
    """Base of a target's own settings: a subclass beside the target's class, which names it ``settings_model``.

    A key begins with the target's name. Its description says what it is about, in which unit; for one that can be left
    out and has no value then, it ends with ``Absent:`` and what holds then. config.ini and docs/settings.md are made of
    these.

    Attributes:
        switch: Which setting switches the target on. Empty: ``extra_targets`` does, as for targets of other packages.

    Raises:
        TypeError: When a subclass is defined: its switch is none of its settings, or a key is not in lower case, and so
            could stand neither in a config.ini nor in the environment.
    """

    switch: ClassVar[str] = ""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        if cls.switch and cls.switch not in cls.model_fields:
            raise TypeError(f"{cls.__name__}: its switch {cls.switch} is none of its settings")
        for name in names(cls):
            if name != name.lower():
                raise TypeError(f"{cls.__name__}: {name} is not in lower case")

    @property
    def is_on(self) -> bool:
        """Whether the switch is set."""
        return bool(self.switch and getattr(self, self.switch))

    def cautions(self, scope: Namespace | None) -> Iterable[str]:
        """What works, and yet should be looked at: for ``doctor``, and for who synthesizes a deployment.

        Args:
            scope: What the stream watches.
        """
        return ()

    @property
    def state(self) -> Sequence[Namespace]:
        """The collections in which the target keeps something of its own, where it writes to MongoDB: a stream that
        covers them leaves their events out."""
        return ()

    @property
    def makes_tables(self) -> bool:
        """Whether the target writes the fields of documents into columns: a schema ledger is then kept for it."""
        return False

    @property
    def where(self) -> str:
        """What the switch is set to: where the target writes to. Raises ConfigError when it is not set."""
        if not self.is_on:
            raise ConfigError("the target is off", hint=f"switch it on with {self.switch.upper() or 'EXTRA_TARGETS'}")
        return str(getattr(self, self.switch))
