"""What every config section shares: strict keys, immutability, and what enters a fingerprint."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

_OPERATIONAL = {"operational": True}


def operational(default: Any, **constraints: Any) -> Any:
    """A config field that changes speed or place, never the result: it stays out of fingerprints.

    `constraints` are those of `pydantic.Field` (`ge`, `gt`, `le`, ...).
    """
    return Field(default, json_schema_extra=dict(_OPERATIONAL), **constraints)


class Section(BaseModel):
    """Base of every config section. A docstring under a field documents its key."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)

    def result_dict(self) -> dict[str, Any]:
        """The fields that decide the result, nested sections included, as plain JSON values."""
        values: dict[str, Any] = self.model_dump(mode="json")
        for name, field in type(self).model_fields.items():
            extra = field.json_schema_extra
            if isinstance(extra, dict) and extra.get("operational"):
                del values[name]
            elif isinstance(nested := getattr(self, name), Section):
                values[name] = nested.result_dict()
        return values
