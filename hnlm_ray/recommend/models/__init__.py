"""Backbones, one file each. A new one is a file, an entry here and the shared test suite."""

from hnlm_ray.recommend.models.base import Backbone, ModelArgs
from hnlm_ray.recommend.names import import_dotted

MODELS = {
    "mf": "hnlm_ray.recommend.models.mf.MF",
    "lightgcn": "hnlm_ray.recommend.models.lightgcn.LightGCN",
    "ngcf": "hnlm_ray.recommend.models.ngcf.NGCF",
    "sgl": "hnlm_ray.recommend.models.sgl.SGL",
    "simgcl": "hnlm_ray.recommend.models.simgcl.SimGCL",
    "xsimgcl": "hnlm_ray.recommend.models.xsimgcl.XSimGCL",
}
"""Name in the config -> class. A dotted path in the config works as well."""

LINEAR_MODELS = ("ease",)
"""Solved in closed form, without the trainer."""


def build_model(name: str, args: ModelArgs) -> Backbone:
    """Build the backbone `name`, one of `MODELS` or the dotted path of a `Backbone`."""
    return import_dotted(name, MODELS, "train.model")(args)
