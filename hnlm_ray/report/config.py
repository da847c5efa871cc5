"""What the report shows: keys of the config section `report`."""

from pydantic import Field

from hnlm_ray.settings import Section


class ReportConfig(Section):
    """How much of the text a reader is shown; every number in the report comes from the other stages."""

    num_samples: int = Field(default=12, ge=0, le=1000)
    """Profiles of items, profiles of users, and text negatives with their grounding shown in words, each."""

    num_triplets: int = Field(default=20, ge=0, le=1000)
    """Fine-tuning triplets shown in words with their CF percentile and similarity."""
