"""The built-in catalogue, read like any other data."""

from collections.abc import Iterator

import numpy as np

from hnlm_ray.demo.catalogue import make_catalogue
from hnlm_ray.ingest.config import DataConfig
from hnlm_ray.ingest.schema import Chunk, Part


class SyntheticReader:
    """Makes the catalogue of `data.synthetic`; needs no path."""

    def __init__(self, config: DataConfig) -> None:
        self._config = config.synthetic

    def parts(self) -> list[Part]:
        return [Part("interactions", "", "synthetic/interactions"), Part("items", "", "synthetic/items")]

    def read(self, part: Part) -> Iterator[Chunk]:
        catalogue = make_catalogue(self._config)
        table = catalogue.items if part.table == "items" else catalogue.interactions
        columns = {name: table[name].combine_chunks() for name in table.column_names}
        yield Chunk(columns, np.arange(table.num_rows), table.num_rows)
