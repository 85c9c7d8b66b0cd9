"""What all settings share. A settings class is strict: unknown keys, inexact types and infinities are errors.

No setting of a run has a default here: what a run uses stands in ``params/``. The JSON form of settings is part of the id of the
runs made with them, except for fields marked `UNHASHED`, which cannot change a result.
"""

from importlib import import_module
from types import ModuleType
from typing import Annotated, Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

PATTERNS: dict[str, str] = {}
"""What each pattern of `matching` means, in words."""


def matching(pattern: str, words: str, max_length: int | None = None) -> StringConstraints:
    """A constraint of text. `words` say in messages what the text must be."""
    PATTERNS[pattern] = words
    return StringConstraints(pattern=pattern, max_length=max_length)


NAME = r"^[a-z][a-z0-9_]*$"
Name = Annotated[str, matching(NAME, "lower-case letters, digits and underscores, with a letter first", 48)]

WIDEST = 1 << 16
Width = Annotated[int, Field(gt=0, le=WIDEST)]
"""A number of columns or of units of a layer."""
Count = Annotated[int, Field(gt=0, le=10**6)]
"""How many of something there are to be in memory at once, or to be tried."""

Title = Annotated[
    str, matching(r"^[^\p{C}\p{Zl}\p{Zp}]{0,120}$", "one line of at most 120 characters that can be printed")
]
"""What tables and figures call something."""

Seed = Annotated[int, Field(ge=0, lt=2**31)]
UNHASHED = Field(exclude=True)

KeyPath = tuple[str | int | float, ...]
Problem = tuple[KeyPath, str]
"""The key that is wrong, below the settings that found it, and what is wrong."""


class Settings(BaseModel):
    """Base of all settings. Values never change."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Kind(Settings):
    """Base of the settings that choose code: data formats, tasks, models and search methods.

    A kind is two things: a subclass, which says all that the suite must know of the kind, and one module, which computes. A kind
    from outside the package has both in one file (see `nisbench.params.kinds`).
    """

    section: ClassVar[str]
    """The key of ``params/`` whose entries these are."""
    tag: ClassVar[str] = "kind"
    """The key of an entry that names its kind."""
    package: ClassVar[str]
    """Where the modules of the package's own kinds are, each named like its kind."""

    @classmethod
    def kind_name(cls) -> str | None:
        """What entries call this kind; None for a base class of kinds."""
        field = cls.model_fields.get(cls.tag)
        names = get_args(field.annotation) if field else ()
        return str(names[0]) if len(names) == 1 and isinstance(names[0], str) else None

    @classmethod
    def module_name(cls) -> str:
        """The module that computes what the settings describe: the kind's own in the package, or the plug-in's file."""
        own = cls.__module__.startswith("nisbench.params.")
        return f"{cls.package}.{cls.kind_name()}" if own else cls.__module__

    @classmethod
    def module(cls) -> ModuleType:
        return import_module(cls.module_name())

    @property
    def label(self) -> str:
        """What these settings are called in the names of folders. It depends on nothing but the settings."""
        return str(self.kind_name())

    def small(self) -> Self:
        """The same with less work, for the conformance test. It may take three trials and a few epochs."""
        return self

    def arguments(self) -> dict[str, Any]:
        """The fields that only this kind has: keyword arguments for what its module builds."""
        shared = {self.tag, "title"}
        return {name: value for name, value in self if name not in shared}
