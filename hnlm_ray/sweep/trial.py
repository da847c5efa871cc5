"""One trial: trains the recommender in its own process on the shared artifacts and reports every validation."""

import time
from typing import Any

from hnlm_ray.config import parse_config
from hnlm_ray.errors import UserError
from hnlm_ray.store import Folder
from hnlm_ray.sweep.config import SweepConfig, with_point
from hnlm_ray.sweep.space import decode, name_of

METRIC = "best_valid"
"""Best validation value so far; never falls, so that a trial that overfits late is not judged by its end."""


def run_trial(point: dict[str, Any], *, job: dict[str, Any]) -> None:
    """Ray Tune's trainable. `job` holds plain values: config, sweep, artifact URIs, folder of the trials.

    Each report has METRIC, `epoch`, `training_s` (so far) and `finished`. A point that the config or the numbers refuse
    counts as 0 and says why in `refused`. The training's checkpoint lies in the trial's folder, by the point's own
    name: where the sweep was killed, the same point goes on.
    """
    from ray import tune

    from hnlm_ray.recommend.checkpoint import Checkpoint
    from hnlm_ray.recommend.on_artifacts import trainer_on
    from hnlm_ray.recommend.trainer import NonFiniteLossError

    sweep = SweepConfig.model_validate(job["sweep"])
    checkpoint = Checkpoint(Folder(job["trials"]).child(name_of(point)))
    num_threads = max(1, int(sweep.cpus_per_trial))
    started = time.perf_counter()

    def report(epoch: int, best_valid: float, **more: Any) -> None:
        training_s = time.perf_counter() - started
        tune.report({METRIC: max(0.0, best_valid), "epoch": epoch, "training_s": training_s, "refused": "", **more})

    try:
        config = with_point(parse_config(job["config"]), decode(sweep, point))

        def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
            if config.train.monitor in metrics:
                report(epoch, trainer.state.best_metric, finished=False)

        trainer = trainer_on(job["artifacts"], config.train, config.seed, checkpoint, num_threads, on_epoch)
        started = time.perf_counter()
        trainer.fit()
    except (UserError, NonFiniteLossError) as error:
        report(0, 0.0, finished=True, refused=str(error))
    else:
        report(trainer.state.epoch, trainer.state.best_metric, finished=True)
    checkpoint.delete()
