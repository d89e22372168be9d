"""What every table of the TOML file has in common."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A table of the TOML file: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def unique(values: tuple[str, ...]) -> tuple[str, ...]:
    """Return the values of a field, each of which may be named once only."""
    if len(set(values)) != len(values):
        raise ValueError("each may be named once only")
    return values
