"""Tokenizer, weights and training loop of the stand-in generator.

B batch, L tokens per row, T answer tokens of the batch, V vocabulary, D width.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hnlm_ray.demo.config import StandinConfig
from hnlm_ray.demo.copying import start_with_copying
from hnlm_ray.demo.lessons import Lesson
from hnlm_ray.memory import keep_freed_memory

PAD, END = "<|pad|>", "<|end|>"
ROLES = ("<|user|>", "<|assistant|>")
# No system text: the tasks are learnt, and in so short a context the instruction would be most of the prompt.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_HEAD_DIM = 64
_ROPE_THETA = 1e6  # half of the channels turn so slowly that they compare contents at any distance
_POOL_BATCHES = 16
"""Batches that are cut from one sorted pool of lessons, so that the rows of a batch are of one length."""


def make_tokenizer(texts: Iterable[str], config: StandinConfig) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most `config.vocab_size` tokens, trained on `texts`, with the chat template."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=2,
        special_tokens=[PAD, END, *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        chat_template=CHAT_TEMPLATE,
        model_max_length=config.max_context_tokens,
        clean_up_tokenization_spaces=False,
    )


def make_model(tokenizer: PreTrainedTokenizerFast, config: StandinConfig) -> LlamaForCausalLM:
    """An untrained Llama of the configured size that can copy; input and output embeddings are tied."""
    num_heads = config.hidden_dim // _HEAD_DIM
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_dim,
            intermediate_size=2 * config.hidden_dim,
            num_hidden_layers=config.num_layers,
            num_attention_heads=num_heads,
            num_key_value_heads=num_heads,
            head_dim=_HEAD_DIM,
            rope_parameters={"rope_type": "default", "rope_theta": _ROPE_THETA},
            max_position_embeddings=config.max_context_tokens,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            attn_implementation="sdpa",
        )
    )
    start_with_copying(model, config.seed)
    return model


@dataclass(frozen=True)
class Row:
    """A lesson in tokens."""

    tokens: list[int]
    """Prompt, answer and end."""
    num_prompt_tokens: int


def encode(lessons: Sequence[Lesson], tokenizer: PreTrainedTokenizerFast, max_tokens: int) -> list[Row]:
    """The lessons in tokens, those of more than `max_tokens` left out."""
    prompts = [
        tokenizer.apply_chat_template(lesson.prompt.messages, tokenize=False, add_generation_prompt=True)
        for lesson in lessons
    ]
    answers = [lesson.answer + END for lesson in lessons]
    parts = tokenizer.backend_tokenizer.encode_batch_fast(prompts + answers, add_special_tokens=False)
    rows = [
        Row(prompt.ids + answer.ids, len(prompt.ids))
        for prompt, answer in zip(parts[: len(lessons)], parts[len(lessons) :], strict=True)
    ]
    return [row for row in rows if len(row.tokens) <= max_tokens]


def batches(rows: Callable[[], list[Row]], batch_tokens: int, rng: np.random.Generator) -> Iterator[list[Row]]:
    """Endless batches of rows of about one length, at most `batch_tokens` with padding; `rows()` makes some."""
    while True:
        pool: list[Row] = []
        while sum(len(row.tokens) for row in pool) < _POOL_BATCHES * batch_tokens:
            pool += rows()
        pool.sort(key=lambda row: len(row.tokens))
        cut: list[list[Row]] = [[]]
        for row in pool:
            if (len(cut[-1]) + 1) * len(row.tokens) > batch_tokens and cut[-1]:
                cut.append([])
            cut[-1].append(row)
        for n in rng.permutation(len(cut)):
            yield cut[n]


def answer_loss(model: LlamaForCausalLM, batch: Sequence[Row], pad_id: int) -> torch.Tensor:
    """Mean cross-entropy of the answers' tokens, given their prompts."""
    longest = max(len(row.tokens) for row in batch)
    input_ids = torch.full((len(batch), longest), pad_id)  # [B, L]
    is_target = torch.zeros((len(batch), longest), dtype=torch.bool)
    for n, row in enumerate(batch):
        input_ids[n, : len(row.tokens)] = torch.tensor(row.tokens)
        is_target[n, row.num_prompt_tokens : len(row.tokens)] = True
    # Pads stand at the right, where a causal model does not look back to them: no mask is needed.
    hidden = model.model(input_ids[:, :-1]).last_hidden_state  # [B, L-1, D]
    logits = model.lm_head(hidden[is_target[:, 1:]])  # [T, V]
    return torch.nn.functional.cross_entropy(logits, input_ids[:, 1:][is_target[:, 1:]])


def teach(
    model: LlamaForCausalLM,
    supply: Iterator[list[Row]],
    config: StandinConfig,
    on_step: Callable[[float], None] = lambda loss: None,
) -> list[float]:
    """Train for `config.num_steps` steps; the loss of every step."""
    keep_freed_memory()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = max(1, config.num_steps // 20)

    def rate(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, config.num_steps - warmup)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    pad_id = int(model.config.pad_token_id)
    losses = []
    model.train()
    for step in range(config.num_steps):
        loss = answer_loss(model, next(supply), pad_id)
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"loss of the stand-in is {losses[-1]} at step {step}")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        on_step(losses[-1])
    model.eval()
    return losses


@torch.inference_mode()
def answer(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, lessons: Sequence[Lesson], max_new_tokens: int = 96
) -> list[str]:
    """Greedy answers to the lessons' prompts, unconstrained."""
    prompts = [
        tokenizer.apply_chat_template(lesson.prompt.messages, tokenize=False, add_generation_prompt=True)
        for lesson in lessons
    ]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    outputs = model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=max_new_tokens,
        do_sample=False,
    )
    return tokenizer.batch_decode(outputs[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
