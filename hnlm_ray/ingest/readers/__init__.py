"""One file per raw format. `READERS` is the whole list; a dotted path names a reader of your own."""

import difflib
import importlib

from hnlm_ray.errors import UserError
from hnlm_ray.ingest.config import DataConfig
from hnlm_ray.ingest.readers.amazon2018 import Amazon2018Reader
from hnlm_ray.ingest.readers.amazon2023 import Amazon2023Reader
from hnlm_ray.ingest.readers.base import Reader
from hnlm_ray.ingest.readers.lightgcn import LightGCNReader
from hnlm_ray.ingest.readers.movielens import MovieLensReader
from hnlm_ray.ingest.readers.recbole import RecBoleReader
from hnlm_ray.ingest.readers.synthetic import SyntheticReader
from hnlm_ray.ingest.readers.tables import TablesReader
from hnlm_ray.ingest.readers.yelp import YelpReader

READERS: dict[str, type[Reader]] = {
    "synthetic": SyntheticReader,
    "tables": TablesReader,
    "amazon2018": Amazon2018Reader,
    "amazon2023": Amazon2023Reader,
    "yelp": YelpReader,
    "movielens": MovieLensReader,
    "recbole": RecBoleReader,
    "lightgcn": LightGCNReader,
}


def make_reader(config: DataConfig) -> Reader:
    """The reader of `config.format`. Raises `UserError` when there is none of that name."""
    if config.format in READERS:
        return READERS[config.format](config)
    module_name, _, class_name = config.format.replace(":", ".").rpartition(".")
    if not module_name or module_name.startswith("."):
        nearest = difflib.get_close_matches(config.format, READERS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise UserError(
            f"data.format {config.format!r} is unknown: use one of {', '.join(READERS)}, "
            f"or the dotted path of your own reader class{hint}"
        )
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"data.format {config.format!r} cannot be imported: {error}; is it on the Python path?"
        ) from None
    reader: Reader = found(config)
    return reader
