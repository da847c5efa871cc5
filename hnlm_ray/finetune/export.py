"""What a fine-tune leaves behind: the adapter (PEFT layout), proven non-empty, and the merged model vLLM loads."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoConfig, PreTrainedTokenizerBase

from hnlm_ray.finetune.checkpoint import set_parameters
from hnlm_ray.finetune.config import FinetuneConfig
from hnlm_ray.finetune.encoder import (
    TextEncoder,
    embed_ids,
    encoder_source,
    load_backbone,
    load_tokenizer,
    make_encoder,
    token_ids,
)
from hnlm_ray.finetune.spec import EncoderSpec
from hnlm_ray.store import Folder

NUM_PARITY_ROWS = 256
"""Texts that an engine is compared on before it embeds anything."""


def write_models(
    spec: EncoderSpec,
    config: FinetuneConfig,
    seed: int,
    out: Folder,
    texts: list[str],
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """From `checkpoint/best.safetensors` write `adapter/` (method lora), `merged/`, `encoder.json` and `parity/`.

    `parity/` holds vectors of some `texts` by the encoder as it was trained, adapter unmerged (float32 on CPUs, `dtype`
    on GPUs): what an engine must reproduce. Returns what was proven of the saved adapter.
    """
    source = encoder_source(spec.base_model)
    encoder = make_encoder(spec, config, torch.float32, seed)
    tensors = out.child("checkpoint").read_tensors("best.safetensors")
    set_parameters(encoder, {name: torch.from_numpy(value.copy()) for name, value in tensors.items()})
    encoder.eval()
    tokenizer = load_tokenizer(source)
    backbone: Any = encoder.backbone
    proof: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        if config.method == "lora":
            adapter = Path(scratch) / "adapter"
            backbone.save_pretrained(str(adapter))
            proof = prove_adapter(adapter, backbone, was_trained=config.epochs > 0)
            out.child("adapter").upload(adapter)
        encoder.to(device, torch.float32 if device.type == "cpu" else dtype)
        write_parity(encoder, tokenizer, spec, texts, out.child("parity"))
        if config.method == "lora":  # merge what lies on disk, in float32: what others will load
            backbone = PeftModel.from_pretrained(load_backbone(source), str(adapter)).merge_and_unload()
        merged = Path(scratch) / "merged"
        backbone.to(dtype=AutoConfig.from_pretrained(source).dtype).save_pretrained(str(merged))
        tokenizer.save_pretrained(str(merged))
        write_sentence_layout(merged, spec, backbone.config.hidden_size)
        out.child("merged").upload(merged)
    out.write_json("encoder.json", spec.as_json())
    return proof


def write_parity(
    encoder: TextEncoder, tokenizer: PreTrainedTokenizerBase, spec: EncoderSpec, texts: list[str], folder: Folder
) -> None:
    """Texts and their vectors [N, d] by the trained encoder."""
    vectors = embed_ids(encoder, token_ids(tokenizer, texts, spec.max_length), tokenizer.pad_token_id)
    folder.write_table("texts.parquet", pa.table({"text": texts}))
    folder.write_tensors("vectors.safetensors", {"vectors": vectors.cpu().numpy()})


def prove_adapter(adapter: Path, trained: PeftModel, *, was_trained: bool = True) -> dict[str, Any]:
    """Read a saved adapter back: the same tensors as trained, all finite, and every B matrix moved from its zero start
    (where there was a training).

    ZeRO-3 with LoRA is known to save empty tensors without a word. Raises `RuntimeError` with what is wrong.
    """
    saved = load_file(adapter / "adapter_model.safetensors")
    expected = get_peft_model_state_dict(trained)
    if saved.keys() != expected.keys():
        raise RuntimeError(f"the saved adapter has {len(saved)} tensors, the trained one {len(expected)}")
    different = [name for name, value in saved.items() if not torch.equal(value, expected[name].cpu())]
    unmoved = [name for name, value in saved.items() if was_trained and "lora_B" in name and not value.any()]
    not_finite = [name for name, value in saved.items() if not value.isfinite().all()]
    for names, fault in ((different, "differ"), (unmoved, "are zero"), (not_finite, "are not finite")):
        if names:
            raise RuntimeError(f"{len(names)} tensors of the saved adapter {fault}, among them {names[0]}")
    norms = [float(value.norm()) for name, value in saved.items() if "lora_B" in name]
    return {
        "num_tensors": len(saved),
        "num_parameters": int(sum(value.numel() for value in saved.values())),
        "mean_norm_of_b": float(np.mean(norms)),
    }


def write_sentence_layout(folder: Path, spec: EncoderSpec, dim: int) -> None:
    """Add the sentence-transformers files, from which vLLM and others take pooling, normalisation and length."""
    mode = {"mean": "pooling_mode_mean_tokens", "last": "pooling_mode_lasttoken", "cls": "pooling_mode_cls_token"}
    pooling = {"word_embedding_dimension": dim} | {name: name == mode[spec.pooling] for name in mode.values()}
    parts = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": idx, "name": str(idx), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for idx, (path, kind) in enumerate(parts)
    ]
    files = {
        "modules.json": modules,
        "1_Pooling/config.json": pooling,
        "2_Normalize/config.json": {},
        "sentence_bert_config.json": {"max_seq_length": spec.max_length, "do_lower_case": False},
    }
    for name, value in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(value, indent=1), encoding="utf-8")
