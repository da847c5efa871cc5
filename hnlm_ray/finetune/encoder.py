"""The text encoder on the training side: loading, pooling, LoRA targets. B texts, T tokens, d dimension."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from hnlm_ray.errors import UserError
from hnlm_ray.finetune.config import EncoderConfig, FinetuneConfig
from hnlm_ray.finetune.minilm import minilm_dir
from hnlm_ray.finetune.spec import EncoderSpec, Pooling
from hnlm_ray.finetune.texts import TextTemplate
from hnlm_ray.finetune.tuned import encoder_folder

_ATTENTION_PROJECTIONS = (  # q, k, v and o of the architectures in use, the longest family name first
    ("q_proj", "k_proj", "v_proj", "o_proj"),  # llama, qwen, mistral, gemma
    ("qkv_proj", "o_proj"),  # phi-3
    ("query_key_value", "attention.dense"),  # gpt-neox
    ("q_proj", "k_proj", "v_proj", "out_proj"),  # gpt-neo, opt
    ("query", "key", "value", "attention.output.dense"),  # bert, roberta, electra: MiniLM
    ("attn.q", "attn.k", "attn.v", "attn.o"),  # mpnet
    ("q_lin", "k_lin", "v_lin", "out_lin"),  # distilbert
    ("Wqkv", "attn.Wo"),  # modernbert
    ("attn.c_attn", "attn.c_proj"),  # gpt-2
)


def encoder_source(model: str) -> str:
    """What `from_pretrained` and the engine load for `encoder.model`: the packaged folder, a local one, a Hub name.

    Raises `UserError` for a folder that holds no model or no tokenizer.
    """
    if model == "minilm":
        return str(minilm_dir())
    folder = encoder_folder(model)
    if not folder.is_dir():
        if model.startswith((".", "/", "~")):
            raise UserError(f"encoder.model {model!r} is no folder; give 'minilm', a Hugging Face folder or a Hub name")
        return model
    if not (folder / "config.json").is_file():
        raise UserError(f"encoder.model {model!r} has no config.json; give a folder in the Hugging Face layout")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.txt")):
        raise UserError(
            f"encoder.model {model!r} has no tokenizer (tokenizer.json); save the tokenizer beside the model"
        )
    return str(folder.absolute())


def make_spec(config: EncoderConfig, template: TextTemplate) -> EncoderSpec:
    """The spec of an encoder config; pooling `auto` becomes what its architecture calls for."""
    pooling: Pooling = default_pooling(encoder_source(config.model)) if config.pooling == "auto" else config.pooling
    return EncoderSpec(config.model, pooling, template)


def default_pooling(source: str) -> Pooling:
    """'mean' for encoder-only models, 'last' for decoders, whose last token alone has seen the whole text."""
    config = AutoConfig.from_pretrained(source)
    if config.is_encoder_decoder:
        raise UserError(f"encoder {source!r} is an encoder-decoder; give an encoder-only model or a decoder")
    return "mean" if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES else "last"


def load_backbone(source: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The model without any head, in evaluation mode; only safetensors are read, none of the model's own code runs."""
    model: PreTrainedModel = AutoModel.from_pretrained(source, dtype=dtype, use_safetensors=True)
    return model.eval()


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The tokenizer, padding and cutting on the right; one without a padding token gets its end token for it."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source)
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def token_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> list[list[int]]:
    """Token ids per text, at most `max_length`: what training and inference both feed to the model."""
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    return ids


def pad_batch(sequences: Sequence[Any], pad_id: int, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` [B, T], padded on the right to the longest of the batch."""
    width = max(map(len, sequences))
    ids = torch.full((len(sequences), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(sequences), width), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.as_tensor(sequence)
        mask[row, : len(sequence)] = 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def pool(states_BTd: Tensor, mask_BT: Tensor, pooling: Pooling) -> Tensor:
    """z = normalise(pool(token states)) of METHOD.md section 4: [B, d] float32 of unit norm."""
    states_BTd = states_BTd.float()
    if pooling == "mean":
        weights_BT1 = mask_BT[..., None].float()
        pooled_Bd = (states_BTd * weights_BT1).sum(1) / weights_BT1.sum(1)
    elif pooling == "last":
        rows = torch.arange(len(states_BTd), device=states_BTd.device)
        pooled_Bd = states_BTd[rows, mask_BT.sum(1) - 1]
    else:
        pooled_Bd = states_BTd[:, 0]
    return F.normalize(pooled_Bd, dim=-1)


class TextEncoder(nn.Module):
    """A backbone (bare, with an adapter, or wrapped by a trainer) with its pooling."""

    def __init__(self, backbone: nn.Module, pooling: Pooling) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling: Pooling = pooling

    def forward(self, *batches: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Each padded batch -> [B, d]. Several go through one call, so that a wrapped module sees one forward pass."""
        return tuple(
            pool(self.backbone(**batch).last_hidden_state, batch["attention_mask"], self.pooling) for batch in batches
        )


@torch.no_grad()
def embed_ids(encoder: nn.Module, sequences: Sequence[Any], pad_id: int, batch_size: int = 64) -> Tensor:
    """[N, d] float32 of token sequences in the given order; sorted by length inside, so that little is padded.

    `encoder` is a `TextEncoder`, alone or inside a trainer's engine.
    """
    device = next(encoder.parameters()).device
    order = sorted(range(len(sequences)), key=lambda row: len(sequences[row]))
    parts = [
        encoder(pad_batch([sequences[row] for row in order[start : start + batch_size]], pad_id, device))[0]
        for start in range(0, len(order), batch_size)
    ]
    embedded = torch.cat(parts)
    result = torch.empty_like(embedded)
    result[torch.as_tensor(order, device=device)] = embedded
    return result


def lora_targets(backbone: nn.Module) -> list[str]:
    """Name endings of the attention projections q, k, v, o of this architecture, as PEFT matches them.

    Raises `UserError` for an architecture that is not known; `finetune.lora.targets` then takes the names.
    """
    names = [name for name, module in backbone.named_modules() if module.__class__.__name__ in ("Linear", "Conv1D")]
    for family in _ATTENTION_PROJECTIONS:
        if all(any(name.endswith(f".{target}") for name in names) for target in family):
            return list(family)
    endings = sorted({name.rsplit(".", 1)[-1] for name in names})
    raise UserError(
        f"no attention projections known in {type(backbone).__name__}; "
        f"name some of its linear layers in finetune.lora.targets: {', '.join(endings)}"
    )


def make_encoder(spec: EncoderSpec, config: FinetuneConfig, dtype: torch.dtype, seed: int) -> TextEncoder:
    """The encoder with what is trained: a fresh adapter (its start decided by the seed), or all weights."""
    backbone: Any = load_backbone(encoder_source(spec.base_model), dtype)
    if config.method == "lora":
        lora = config.lora
        _switch_own_dropout_off(backbone)
        targets = lora_targets(backbone) if lora.targets == "auto" else lora.targets
        torch.manual_seed(seed)
        backbone = get_peft_model(
            backbone,
            LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets),
        )
    return TextEncoder(backbone, spec.pooling)


def _switch_own_dropout_off(backbone: nn.Module) -> None:
    """What is frozen cannot overfit: only the adapter's input is dropped (decoders have no dropout of their own)."""
    for module in backbone.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def fast_dtype(device: str) -> torch.dtype:
    """bfloat16 where the hardware computes in it, else float32: what 'auto' means for training and embedding."""
    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if has_bf16 else torch.float32
