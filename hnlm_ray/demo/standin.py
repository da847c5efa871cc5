"""The stand-in generator: a small Llama made and trained on the spot, kept as an ordinary Hugging Face folder.

It stands in for a real chat model where none is named, so that every line of the pipeline runs on a laptop and
without a network. It has learnt the three answers of `demo/lessons.py` and nothing else.
"""

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hnlm_ray.demo.config import StandinConfig
from hnlm_ray.demo.lessons import KINDS, Lesson, Shop, lessons, renamed, shop_of_dataset, synthetic_shop
from hnlm_ray.errors import UserError
from hnlm_ray.generate.prompting import DOMAINS, load_template
from hnlm_ray.store import Folder

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from hnlm_ray.progress import Progress

CARD = "standin.json"
"""File of the folder that tells how the model was made and how good it is; written last."""
_SHARES = (0.35, 0.2, 0.45)
"""Of the lessons, those of each kind: users' prompts are the longest, negatives need the most knowledge."""
_SHOP_SHARES = (0.5, 0.25, 0.25)
"""Of the lessons, those from the data set itself, from another synthetic shop, from shops with invented names."""
_LESSONS_PER_DRAW = 4
_MAX_LESSON_TOKENS = 768
_NUM_EXAM_LESSONS = 64
_NUM_RENAMED_SHOPS = 8
_NUM_TOKENIZER_LESSONS = 300


def default_cache_root() -> Path:
    """Where stand-ins are kept: `hnlm_ray/standin` in the user's cache directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hnlm_ray" / "standin"


def standin_dir(
    config: StandinConfig, dataset: Folder, *, cache_root: Path | None = None, progress: "Progress | None" = None
) -> str:
    """The folder of the stand-in for `dataset`: from the cache where it stands whole, else made now (about a minute).

    Cached by a fingerprint of the data set's text, the config, the prompts and this package's code. Several processes
    may ask at once: each makes its own, the first to finish is kept.

    Raises `UserError` where the trained model names too few genres (`min_genre_accuracy`).
    """
    own = shop_of_dataset(dataset)
    folder = (cache_root or default_cache_root()) / fingerprint(config, own)
    if not is_whole(folder):
        making = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}")
        try:
            making.mkdir(parents=True)
            make_standin(config, own, making, progress)
            shutil.rmtree(folder, ignore_errors=True)  # a broken one
            _keep(making, folder)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return str(folder)


def _keep(making: Path, folder: Path) -> None:
    try:
        making.rename(folder)
    except OSError:
        if not is_whole(folder):  # not simply that another process was first
            raise


def fingerprint(config: StandinConfig, own: Shop) -> str:
    """Name of the cached folder: changes with the text, the config, the prompts, and the code that teaches."""
    digest = hashlib.sha256(json.dumps(config.result_dict(), sort_keys=True).encode())
    for source in sorted(files("hnlm_ray.demo").iterdir(), key=lambda source: source.name):
        if source.name.endswith(".py"):
            digest.update(source.read_bytes())
    for kind in KINDS:
        for domain in DOMAINS:
            digest.update(load_template(domain, kind).source.encode())
    for text in own.text():
        digest.update(text.encode() + b"\n")
    return digest.hexdigest()[:20]


def is_whole(folder: Path) -> bool:
    """Whether every file that the model's card lists is there with the listed content."""
    if not (folder / CARD).is_file():
        return False
    listed: dict[str, str] = json.loads((folder / CARD).read_text())["sha256"]
    return all((folder / name).is_file() and _sha256(folder / name) == value for name, value in listed.items())


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make_standin(config: StandinConfig, own: Shop, folder: Path, progress: "Progress | None" = None) -> dict[str, Any]:
    """Train a stand-in for the shop `own`, examine it on a shop it has not seen, and save it; its card."""
    from hnlm_ray.demo.teaching import batches, encode, make_model, make_tokenizer, teach

    started = time.monotonic()
    rng = np.random.default_rng(config.seed)
    foreign = synthetic_shop(seed=1_000 + config.seed)
    shops = [own, foreign, *(renamed(foreign, rng) for _ in range(_NUM_RENAMED_SHOPS))]

    def words() -> Iterator[str]:
        yield from own.text()
        for shop in shops:
            for lesson in lessons(shop, _NUM_TOKENIZER_LESSONS, rng):
                yield f"{lesson.prompt.user} {lesson.answer}"

    tokenizer = make_tokenizer(words(), config)
    model = make_model(tokenizer, config)
    max_tokens = min(config.max_context_tokens, _MAX_LESSON_TOKENS)  # longer ones cost time and teach nothing new
    supply = batches(lambda: encode(mixed_lessons(shops, rng), tokenizer, max_tokens), config.batch_tokens, rng)
    if progress:
        progress.start(config.num_steps, unit="steps", part="stand-in")
    losses = teach(
        model, supply, config, lambda loss: progress.update(1, note=f"loss {loss:.2f}") if progress else None
    )
    accuracy = examine(model, tokenizer, config)
    if accuracy < config.min_genre_accuracy:
        raise UserError(
            f"the stand-in names the right genre for {accuracy:.0%} of held-out items, below "
            f"llm.standin.min_genre_accuracy ({config.min_genre_accuracy:.0%}); raise llm.standin.num_steps "
            f"({config.num_steps}) or name a real model in llm.model"
        )
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    card = {
        "what": "a stand-in for a real chat model, trained on the spot; of no use outside hnlm_ray",
        "config": config.model_dump(mode="json"),
        "num_parameters": sum(weight.numel() for weight in model.parameters()),
        "train_s": round(time.monotonic() - started, 1),
        "loss": round(float(np.mean(losses[-20:])), 4),
        "heldout_genre_accuracy": accuracy,
        "sha256": {path.name: _sha256(path) for path in sorted(folder.iterdir())},
    }
    (folder / CARD).write_text(json.dumps(card, indent=1))
    return card


def mixed_lessons(shops: list[Shop], rng: np.random.Generator) -> list[Lesson]:
    """Some lessons of one kind from one shop at random: the own one, a foreign one, or one with invented names."""
    own, foreign, *invented = shops
    kind = KINDS[int(rng.choice(len(KINDS), p=_SHARES))]
    # Whoever does not know a shop's sub-genres cannot name another one: no hard negatives from invented names.
    third = foreign if kind == "hard_negative" else invented[int(rng.integers(len(invented)))]
    shop = (own, foreign, third)[int(rng.choice(3, p=_SHOP_SHARES))]
    return lessons(shop, _LESSONS_PER_DRAW, rng, [kind])


def examine(model: "LlamaForCausalLM", tokenizer: "PreTrainedTokenizerFast", config: StandinConfig) -> float:
    """Share of the items of an unseen shop whose profile begins with the item's own genre (greedy, unconstrained)."""
    from hnlm_ray.demo.teaching import answer

    shop = synthetic_shop(seed=2_000 + config.seed)
    exam = lessons(shop, _NUM_EXAM_LESSONS, np.random.default_rng(config.seed), KINDS[:1])
    answers = answer(model, tokenizer, exam)
    opening = [lesson.answer.split(".")[0].split(",")[0] for lesson in exam]
    return float(np.mean([text.startswith(start) for text, start in zip(answers, opening, strict=True)]))
