"""What the LLM stages will cost, before anything is asked: prompts of sampled rows, counted by the model's tokenizer.

Profiles are not written yet, so words of the catalogue stand in for them and for the answers, as many as the prompts
allow. The first units of a task give a closer estimate (`units.py`), at the speed of the engines themselves.
"""

import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from hnlm_ray.config import RunConfig
from hnlm_ray.generate.chat import ChatTokenizer
from hnlm_ray.generate.config import LLMConfig
from hnlm_ray.generate.cost import Cost, Usage, cost_of
from hnlm_ray.generate.inputs import Range, item_rows, pair_rows, read_range, told_titles, user_rows
from hnlm_ray.generate.negative_stage import negative_task
from hnlm_ray.generate.profile_stage import profile_task
from hnlm_ray.generate.prompting import fit
from hnlm_ray.generate.protocol import GenerateRequest
from hnlm_ray.generate.schemas import write_answer
from hnlm_ray.generate.unit_worker import TextTask, make_draft
from hnlm_ray.store import Folder

_RANGES, _IDS_PER_RANGE = 4, 16
"""Ranges of items and of users that are read, spread over all of them, and the ids in each."""
_REASONING_WORDS = 30


@dataclass(frozen=True)
class _Items:
    """Titles of all items, with one stand-in for every profile."""

    titles: pa.Array
    profile: str

    def take(self, item_ids: np.ndarray) -> tuple[pa.Array, pa.Array]:
        return self.titles.take(pa.array(item_ids)), pa.repeat(self.profile, len(item_ids))

    def has_any(self, item_ids: np.ndarray) -> np.ndarray:
        return np.ones(len(item_ids), bool)


def forecast(config: RunConfig, dataset: Folder) -> dict[str, Cost]:
    """Cost of `items` and `users` (stage profile) and `pairs` (stage negative).

    Hours and price of engines of our own follow from `llm.price.tokens_per_s`; where it is 0, they are 0. Raises
    `UserError` where the tokenizer cannot be loaded.
    """
    llm, profile, negative = config.llm, config.profile, config.negative
    template_args, trusted = llm.chat_template_args, bool(llm.trust_remote_code)
    chat = ChatTokenizer(llm.tokenizer or llm.model, trust_remote_code=trusted, template_args=template_args)
    num_items, num_users, num_train = (dataset.num_rows(name) for name in ("items", "users", "train"))
    sampled_items = pa.concat_tables(read_range(dataset, "items", "item_id", ids) for ids in _spread(num_items))
    columns = ["user_id", "item_id", "review"]
    train = {ids: read_range(dataset, "train", "user_id", ids, columns) for ids in _spread(num_users)}
    say = _words(sampled_items)
    titles = dataset.read_table("items", columns=["item_id", "title", "title_source"]).sort_by("item_id")
    items = _Items(told_titles(titles), say(profile.max_words))
    per_user = num_train if negative.pairs == "all" else negative.max_pairs_per_user
    num_pairs = min(num_train, num_users * per_user, negative.max_pairs or num_train)

    def pairs_of(ids: Range, rows: pa.Table) -> pa.Table:
        users, order = pa.repeat(say(profile.max_words), ids[1] - ids[0]), -np.arange(rows.num_rows)
        return pair_rows(rows, items, users, ids, order, np.full(ids[1] - ids[0], per_user))

    samples = {
        "items": (
            profile_task(config, "items", dataset, dataset),
            num_items,
            [_item_rows(config, sampled_items, train)],
        ),
        "users": (
            profile_task(config, "users", dataset, dataset),
            num_users,
            [user_rows(rows, items, ids, profile.max_items_per_user) for ids, rows in train.items()],
        ),
        "pairs": (negative_task(config, dataset, dataset), num_pairs, [pairs_of(*part) for part in train.items()]),
    }
    return {name: _cost(llm, chat, say, *sample) for name, sample in samples.items()}


def _cost(
    llm: LLMConfig,
    chat: ChatTokenizer,
    say: Callable[[int], str],
    task: TextTask,
    num_rows: int,
    sampled: Sequence[pa.Table],
) -> Cost:
    rows = [row for part in sampled for row in part.to_pylist()]
    drafts = [draft for row in rows if not row.get("given") and (draft := make_draft(task, row))]
    request = GenerateRequest(drafts, task.max_prompt_tokens, task.max_new_tokens, schema={})
    prompts = fit(drafts, chat.encode, request.prompt_budget(llm.max_model_len or sys.maxsize))
    answer = write_answer(task.template.kind, say(task.max_words), say(_REASONING_WORDS))
    answer_tokens = min(task.max_new_tokens, len(chat.tokenize([answer])[0]))
    asked = round(num_rows * len(drafts) / max(len(rows), 1))
    prompt_tokens = round(asked * np.mean([len(row.token_ids) for row in prompts])) if prompts else 0
    speed = llm.price.tokens_per_s
    engine_s = (prompt_tokens + asked * answer_tokens) / speed if speed else 0.0
    return cost_of(Usage(asked, prompt_tokens, asked * answer_tokens, engine_s), llm)


def _item_rows(config: RunConfig, items: pa.Table, train: Mapping[Range, pa.Table]) -> pa.Table:
    """Inputs of the sampled items, with reviews of the sampled users: their own would take a search through all."""
    found = [review for rows in train.values() for review in rows["review"].to_pylist() if review]
    most = config.profile.max_reviews_per_item if found else 0
    endless = itertools.cycle(found)
    reviews = pa.array([list(itertools.islice(endless, most)) for _ in range(items.num_rows)], pa.list_(pa.string()))
    return item_rows(items, reviews, use_supplied=config.profile.use_supplied)


def _words(items: pa.Table) -> Callable[[int], str]:
    """`n` words of the catalogue's titles and descriptions, going on from those that were given out last."""
    texts = [text for name in ("title", "description", "text") for text in items[name].to_pylist() if text]
    endless = itertools.cycle(" ".join(texts).split() or ["word"])
    return lambda num_words: " ".join(itertools.islice(endless, num_words))


def _spread(num_ids: int) -> list[Range]:
    """Ranges of ids, evenly spread; one of all ids where there are few."""
    if num_ids <= _RANGES * _IDS_PER_RANGE:
        return [(0, num_ids)]
    starts = np.linspace(0, num_ids - _IDS_PER_RANGE, _RANGES).astype(int).tolist()
    return [(start, start + _IDS_PER_RANGE) for start in starts]
