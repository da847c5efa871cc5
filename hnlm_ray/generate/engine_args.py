"""`engine_args` of a config: which of vLLM's own arguments are refused there, and which decide what is answered."""

from collections.abc import Mapping
from typing import Any

OPERATIONAL_ARGS = frozenset(
    {
        "async_scheduling",
        "block_size",
        "collect_detailed_traces",
        "compilation_config",
        "cpu_offload_gb",
        "cudagraph_capture_sizes",
        "data_parallel_size",
        "device_ids",
        "disable_custom_all_reduce",
        "disable_log_stats",
        "distributed_executor_backend",
        "distributed_timeout_seconds",
        "download_dir",
        "enable_chunked_prefill",
        "enable_prefix_caching",
        "enable_sleep_mode",
        "enforce_eager",
        "gpu_memory_utilization",
        "kv_cache_memory_bytes",
        "kv_cache_metrics",
        "kv_offloading_size",
        "max_num_batched_tokens",
        "max_num_scheduled_tokens",
        "max_num_seqs",
        "max_parallel_loading_workers",
        "model_loader_extra_config",
        "numa_bind",
        "num_gpu_blocks_override",
        "optimization_level",
        "otlp_traces_endpoint",
        "performance_mode",
        "pipeline_parallel_size",
        "safetensors_load_strategy",
        "scheduling_policy",
        "skip_mm_profiling",
        "stream_interval",
        "tensor_parallel_size",
        "use_tqdm_on_load",
    }
)
"""Arguments that change speed or place, never which model answers; every other one is a part of the result."""


def decisive_args(engine_args: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The arguments that decide the result, under their config key; nothing at all where there are none.

    So a config without them keeps the fingerprint that it had before they counted.
    """
    decisive = {name: value for name, value in engine_args.items() if name not in OPERATIONAL_ARGS}
    return {"engine_args": decisive} if decisive else {}


def check_engine_args(section: str, engine_args: Mapping[str, Any], settings: Mapping[str, str]) -> None:
    """Refuse arguments that stand elsewhere. `settings`: argument -> where it is set.

    Raises:
        ValueError: an argument is one of `settings`; only its name is told, since its value may be a secret.
    """
    for name in sorted(settings.keys() & engine_args.keys()):
        raise ValueError(f"{section}.engine_args.{name} is not accepted: set {settings[name]} instead")
