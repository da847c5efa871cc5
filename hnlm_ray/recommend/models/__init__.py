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
    "alpharec": "hnlm_ray.recommend.models.alpharec.AlphaRec",
    "rlmrec_con": "hnlm_ray.recommend.models.rlmrec_con.RLMRecCon",
    "rlmrec_gen": "hnlm_ray.recommend.models.rlmrec_gen.RLMRecGen",
    "kar": "hnlm_ray.recommend.models.kar.KAR",
}
"""Name in the config -> class. A dotted path in the config works as well."""


def build_model(name: str, args: ModelArgs, key: str = "train.model") -> Backbone:
    """Build the backbone `name`, one of `MODELS` or the dotted path of a `Backbone`; `key` is where it was named."""
    return import_dotted(name, MODELS, key)(args)
