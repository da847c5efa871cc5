"""`hnlm bench train`: epochs of LightGCN against a loop that works like SELFRec's, and against the kernels' floor.

LightGCN, 3 layers, D = 64, batch 2048, BPR, on synthetic graphs of the sizes of lastfm and gowalla. A step is the unit:
an epoch is its number of steps times the median step, since an epoch of the reference at gowalla's size takes minutes.
"""

import math
import statistics
import time
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from hnlm_ray.bench.frame import Bar, BenchOptions, Measurement, paired, seconds_of
from hnlm_ray.bench.graphs import SIZES, GraphSize, power_law_graph
from hnlm_ray.bench.reference_lightgcn import ReferenceLightGCN
from hnlm_ray.bench.train_memory import peak_memory
from hnlm_ray.recommend.config import TrainConfig
from hnlm_ray.recommend.engine import DeepSpeedEngine
from hnlm_ray.recommend.fitting import LlmNegatives, build_trainer
from hnlm_ray.recommend.graded import FalseNegatives
from hnlm_ray.recommend.graph import Graph
from hnlm_ray.recommend.guard import Guard
from hnlm_ray.recommend.interactions import Interactions
from hnlm_ray.recommend.pair_vectors import from_arrays
from hnlm_ray.recommend.pool import Pool
from hnlm_ray.recommend.samplers import drawing
from hnlm_ray.recommend.trainer import Trainer

DIM, NUM_LAYERS, BATCH_SIZE, VECTOR_DIM, POOL_SIZE = 64, 3, 2048, 384, 20
_STEPS = {"lastfm": 40, "gowalla": 3}
"""Steps per repetition"""
_FEWEST_PAIRS = {"lastfm": 25, "gowalla": 3}
"""Repetitions: those of a small graph take a fraction of a second, in which a machine's moods weigh more."""
_STEPS_PER_EPOCH_IN_GROWTH = 400


def measure(options: BenchOptions) -> Measurement:
    """See the frame."""
    torch.set_num_threads(options.threads)
    figures: dict[str, float] = {}
    sizes = {name: SIZES[name].shrunk(20 if options.quick else 1) for name in ("lastfm", "gowalla")}
    for name, size in sizes.items():
        figures |= _against_reference(name, power_law_graph(size, options.seed), options)
    gowalla = power_law_graph(sizes["gowalla"], options.seed)
    figures |= _against_floor(gowalla, options)
    figures |= _samplers(gowalla, options)
    figures |= _under_ray(sizes["gowalla"], options)
    figures |= _growth(options)
    figures |= peak_memory(options)
    bars = [
        Bar("lastfm_speedup", figures["lastfm_speedup"], 5),
        Bar("gowalla_speedup", figures["gowalla_speedup"], 5),
        Bar("gowalla_over_floor", figures["gowalla_over_floor"], 1.3, "lower"),
        Bar("rns_sampling_share", figures["rns_sampling_share"], 0.05, "lower"),
        Bar("dns32_over_rns", figures["dns32_over_rns"], 1.6, "lower"),
        Bar("aligned_over_rns", figures["aligned_over_rns"], 1.3, "lower"),
        Bar("grounded_over_rns", figures["grounded_over_rns"], 1.3, "lower"),
        Bar("hybrid_over_dns32", figures["hybrid_over_dns32"], 1.3, "lower"),
        Bar("guarded_over_dns32", figures["guarded_over_dns32"], 1.3, "lower"),
        Bar("graded_over_dns32", figures["graded_over_dns32"], 1.3, "lower"),
        Bar("deepspeed_over_bare", figures["deepspeed_over_bare"], 1.1, "lower"),
        Bar("ray_train_fixed_s", figures["ray_train_fixed_s"], 15, "lower"),
        Bar("aligned_peak_gb", figures["aligned_peak_gb"], 3, "lower"),
        Bar("grounded_peak_gb", figures["grounded_peak_gb"], 3, "lower"),
    ]
    notes = [
        "epoch = steps per epoch x median step; the reference is `bench/reference_lightgcn.py`",
        f"growth: batch = pairs / {_STEPS_PER_EPOCH_IN_GROWTH}; every step propagates the whole graph, "
        "so at a fixed batch an epoch of any LightGCN grows with the square of the pairs",
    ]
    return Measurement(figures, bars, notes)


def trainer_on(data: Interactions, options: BenchOptions, llm: LlmNegatives | None = None, **config: Any) -> Trainer:
    """A trainer of the benchmark's model, without validation."""
    values = {
        "dim": DIM,
        "num_layers": NUM_LAYERS,
        "batch_size": BATCH_SIZE,
        "epochs": 10**6,
        "hnlm": {"variant": "none"},
    }
    return build_trainer(data, TrainConfig.model_validate(values | config), options.seed, llm)


def stepper(trainer: Trainer) -> Callable[[], None]:
    """One step per call, epoch after epoch."""
    batches = trainer.batches()

    def step() -> None:
        nonlocal batches
        batch = next(batches, None)
        if batch is None:
            trainer.state.epoch, trainer.state.step = trainer.state.epoch + 1, 0
            batches = trainer.batches()
            batch = next(batches)
        trainer.step(batch)

    return step


def _times(function: Callable[[], Any], count: int) -> Callable[[], None]:
    def repeat() -> None:
        for _ in range(count):
            function()

    return repeat


def _against_reference(name: str, data: Interactions, options: BenchOptions) -> dict[str, float]:
    steps = _STEPS[name]
    reference = ReferenceLightGCN(data, DIM, NUM_LAYERS, BATCH_SIZE, lr=5e-3, reg=1e-4)
    reference_steps = max(1, steps // 10)
    ours, theirs = stepper(trainer_on(data, options)), reference.step
    repeats = max(options.repeats, 1 if options.quick else _FEWEST_PAIRS[name])
    times = paired(_times(ours, steps), _times(theirs, reference_steps), repeats)
    batches = math.ceil(data.num_pairs / BATCH_SIZE)
    return {
        f"{name}_epoch_s": times.ours / steps * batches,
        f"{name}_reference_epoch_s": times.baseline / reference_steps * batches,
        f"{name}_speedup": times.speedup * steps / reference_steps,
    }


def _against_floor(data: Interactions, options: BenchOptions) -> dict[str, float]:
    """A step against the six full products that a plain forward and backward need, by the same kernel."""
    times = paired(stepper(trainer_on(data, options)), _all_products(data), max(options.repeats, 5))
    return {"gowalla_step_s": times.ours, "gowalla_six_products_s": times.baseline, "gowalla_over_floor": times.ratio}


def _all_products(data: Interactions) -> Callable[[], None]:
    """The products of a forward and a backward pass and nothing else."""
    graph = Graph(data.train)
    x, out = torch.randn(graph.num_nodes, DIM), torch.empty(graph.num_nodes, DIM)
    return _times(lambda: graph.product(x, out), 2 * NUM_LAYERS)


def _samplers(data: Interactions, options: BenchOptions) -> dict[str, float]:
    """Steps of each sampler and variant, each paired with its base."""
    dns: dict[str, Any] = {"sampler": {"kind": "dns", "num_candidates": 32}}
    llm = _llm_negatives(data, options.seed)
    window = {"window": [0.0, 1.0]}
    pairs: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "dns32_over_rns": (dns, {}),
        "aligned_over_rns": ({"hnlm": {"variant": "aligned"}}, {}),
        "grounded_over_rns": ({"hnlm": {"variant": "grounded", **window}}, {}),
        "hybrid_over_dns32": (dns | {"hnlm": {"variant": "hybrid", **window}}, dns),
        "guarded_over_dns32": (dns | {"hnlm": {"variant": "guarded"}}, dns),
        "graded_over_dns32": (dns | {"hnlm": {"variant": "graded"}}, dns),
    }
    figures = {}
    for name, (ours, base) in pairs.items():
        own, other = (stepper(trainer_on(data, options, llm, **config)) for config in (ours, base))
        figures[name] = paired(own, other, max(options.repeats, 5)).ratio
    rns = trainer_on(data, options)
    step, shares = stepper(rns), []
    for _ in range(options.repeats + 2):
        rns.objective.sampling_s = 0.0
        seconds = seconds_of(step)
        shares.append(rns.objective.sampling_s / seconds)
    figures["rns_sampling_share"] = statistics.median(shares[2:])
    batch = next(iter(rns.batches()))
    many = np.empty((len(batch.user_ids), 64), np.int32)
    key, items = drawing.stream_key(0, 1, 0), data.train
    draw = lambda: drawing.draw_uniform(  # noqa: E731
        key, batch.pair_ids, batch.user_ids, items.indptr, items.item_ids, items.num_items, many
    )
    draw()
    figures["rns_negatives_per_s"] = many.size / statistics.median(seconds_of(draw) for _ in range(options.repeats))
    return figures


def _llm_negatives(data: Interactions, seed: int) -> LlmNegatives:
    """Random vectors and pools of the real sizes; several pairs share a row, which costs the same to read."""
    rng = np.random.default_rng(seed)
    num_vectors = min(65_536, data.num_pairs)
    vectors = rng.standard_normal((num_vectors, VECTOR_DIM)).astype(np.float16)
    row_of_pair = rng.integers(0, num_vectors, data.num_pairs).astype(np.int32)
    pool = rng.integers(0, data.num_items, (data.num_pairs, POOL_SIZE)).astype(np.int32)
    texts = rng.standard_normal((data.num_users + data.num_items, VECTOR_DIM), np.float32)
    false_negatives = FalseNegatives(
        data,
        text=None,
        text_weight=0.0,
        popularity_discount=0.0,
        num_per_user=POOL_SIZE,
        tau=1.0,
        weight=0.5,
        seed=seed,
    )
    false_negatives.item_ids = rng.integers(0, data.num_items, (data.num_users, POOL_SIZE)).astype(np.int32)
    false_negatives.chances = np.tile(np.linspace(1 / POOL_SIZE, 1, POOL_SIZE, dtype=np.float32), (data.num_users, 1))
    return LlmNegatives(
        vectors=from_arrays(vectors, row_of_pair, data),
        pool=Pool(pool, np.full(data.num_pairs, POOL_SIZE, np.int32)),
        guard=Guard(texts, data.num_users, weight=0.5),
        false_negatives=false_negatives,
        user_emb=np.zeros((data.num_users, 1), np.float32),
        item_emb=np.zeros((data.num_items, 1), np.float32),
    )


def _under_ray(size: GraphSize, options: BenchOptions) -> dict[str, float]:
    """What Ray Train and DeepSpeed add to a training in the driver: per step, and once."""
    from hnlm_ray.distributed import run_training
    from hnlm_ray.progress import Progress
    from hnlm_ray.runtime import RuntimeConfig, connected
    from hnlm_ray.store import Folder

    runtime = RuntimeConfig(address="local", num_cpus=options.threads)
    begin = time.perf_counter()
    with TemporaryDirectory() as root, connected(runtime):
        ray_init_s = time.perf_counter() - begin
        out = Folder(root)
        config = {"out": root, "size": vars(size), "options": vars(options)}
        total_s = seconds_of(
            lambda: run_training(
                _deepspeed_loop, config, runtime=runtime, out=out, name="bench", progress=Progress("bench")
            )
        )
        inside = out.read_json("result.json")
    fixed_s = total_s - inside["measuring_s"]
    return {"ray_init_s": ray_init_s, "ray_train_fixed_s": fixed_s, "deepspeed_over_bare": inside["ratio"]}


def _deepspeed_loop(loop_config: dict[str, Any]) -> None:
    """Steps under DeepSpeed (ZeRO 0, one rank) paired with steps of the bare loop; its start counts as fixed."""
    from hnlm_ray.store import Folder

    begin = time.perf_counter()
    options = BenchOptions(**loop_config["options"])
    data = power_law_graph(GraphSize(**loop_config["size"]), options.seed)
    bare, wrapped = trainer_on(data, options), trainer_on(data, options)
    initialize_s = seconds_of(lambda: _wrap(wrapped))
    ratio = paired(stepper(wrapped), stepper(bare), max(options.repeats, 5)).ratio
    measuring_s = time.perf_counter() - begin - initialize_s
    Folder(loop_config["out"]).write_json("result.json", {"ratio": ratio, "measuring_s": measuring_s})


def _wrap(trainer: Trainer) -> None:
    trainer.engine = DeepSpeedEngine(trainer.objective, trainer.config, world_size=1)


def _growth(options: BenchOptions) -> dict[str, float]:
    """Seconds per epoch and million pairs, from 10^5 to 10^7 pairs with gowalla's degrees, and what of it is memory.

    `growth_over_floor_*` is the step over the six products at that size: where it stays, an epoch grows as the bare
    products do, which leave one cache after the other.
    """
    figures = {}
    for power in (4,) if options.quick else (5, 6, 7):
        pairs = 10**power
        size = GraphSize(pairs * 29_858 // 810_128, pairs * 40_981 // 810_128, pairs)
        data = power_law_graph(size, options.seed)
        step = stepper(trainer_on(data, options, batch_size=max(1, pairs // _STEPS_PER_EPOCH_IN_GROWTH)))
        times = paired(step, _all_products(data), 3)
        figures[f"epoch_s_per_million_pairs_at_1e{power}"] = times.ours * _STEPS_PER_EPOCH_IN_GROWTH / (pairs / 1e6)
        figures[f"growth_over_floor_at_1e{power}"] = times.ratio
    return figures
