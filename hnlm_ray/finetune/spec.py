"""What makes the same vector of a text in training and inference; light to import, since it travels everywhere."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from hnlm_ray.finetune.texts import TextTemplate

Pooling = Literal["mean", "last", "cls"]


@dataclass(frozen=True)
class EncoderSpec:
    """What makes a vector out of a text; saved as `encoder.json` beside the weights."""

    base_model: str
    pooling: Pooling
    template: TextTemplate

    @property
    def max_length(self) -> int:
        """Tokens per text, special tokens included."""
        return self.template.max_length

    def as_json(self) -> dict[str, Any]:
        """The spec as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "EncoderSpec":
        """Restore what `as_json` wrote."""
        return cls(**{**values, "template": TextTemplate(**values["template"])})
