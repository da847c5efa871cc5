"""Stage `signal`: a warm-up CF model whose final embeddings are the behavioural signal of the LLM stages."""

from typing import TYPE_CHECKING, Any

from hnlm_ray.distributed import run_training
from hnlm_ray.errors import UserError
from hnlm_ray.recommend.checkpoint import Checkpoint
from hnlm_ray.recommend.config import CLOSED_FORM_MODELS
from hnlm_ray.recommend.loops import SUMMARY_FILE, signal_loop
from hnlm_ray.recommend.names import reads_text

if TYPE_CHECKING:
    from hnlm_ray.pipeline import StageContext


def run(ctx: "StageContext") -> dict[str, Any]:
    """Train `config.signal` and write `embeddings.safetensors`: user_emb [U, D], item_emb [I, D], float32."""
    config, out = ctx.config.signal, ctx.out("signal")
    if config.model in CLOSED_FORM_MODELS:
        raise UserError(f"signal.model={config.model!r} has no embeddings: use mf, lightgcn or another trained model")
    if reads_text(config.model):
        raise UserError(f"signal.model={config.model!r} reads texts, which come later: use lightgcn or the like")
    loop_config = {
        "config": config.model_dump(mode="json"),
        "seed": ctx.config.seed,
        "dataset": ctx.input("dataset").uri,
        "out": out.uri,
    }
    run_training(signal_loop, loop_config, runtime=ctx.config.runtime, out=out, name="signal", progress=ctx.progress)
    Checkpoint(out).delete()
    return dict(out.read_json(SUMMARY_FILE))
