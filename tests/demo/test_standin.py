"""The stand-in generator: its lessons, its folder, its cache. Trained for a few steps; quality is a run's matter."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hnlm_ray.demo import standin
from hnlm_ray.demo.config import StandinConfig
from hnlm_ray.demo.lessons import KINDS, Shop, lessons, shop_of_dataset, short_title, synthetic_shop, user_answer
from hnlm_ray.errors import UserError
from hnlm_ray.generate.schemas import parse_answer
from hnlm_ray.store import Folder

TEXTS = ("Fans of {} and heartfelt tales would enjoy it", "Readers of {} with a dark past", "A {} for a long winter")
THEMES = ("romance", "fantasy", "mystery")
CONFIG = StandinConfig(num_steps=4, min_genre_accuracy=0.0, vocab_size=1024)


@pytest.fixture
def dataset(tmp_path: Path) -> Folder:
    """Ninety items that have a title and ready-made text and nothing else, as many real sets do; ten readers."""
    folder = Folder(tmp_path / "dataset")
    items = pa.table(
        {
            "item_id": pa.array(range(90), pa.int32()),
            "title": [f"Tale {n}: Book {n} (Volume 1)" for n in range(90)],
            "brand": pa.nulls(90, pa.string()),
            "categories": pa.nulls(90, pa.list_(pa.string())),
            "description": pa.nulls(90, pa.string()),
            "text": [TEXTS[n // 3 % 3].format(THEMES[n % 3]) for n in range(90)],
        }
    )
    train = pa.table(
        {
            "user_id": pa.array(np.repeat(np.arange(10), 6), pa.int32()),
            "item_id": pa.array((np.arange(60) * 7) % 90, pa.int32()),
            "review": pa.nulls(60, pa.string()),
        }
    )
    folder.write_table("items/part-0.parquet", items)
    folder.write_table("train/part-0.parquet", train)
    return folder


def test_items_without_categories_are_told_by_short_title_and_themes(dataset: Folder) -> None:
    shop = shop_of_dataset(dataset)
    assert shop.profile(0)[0] == "Like Tale 0. About romance, heartfelt."
    assert shop.profile(4)[0] == "Like Tale 4. About fantasy, dark."
    assert "would" not in shop.themes
    assert "enjoy" not in shop.themes


def test_a_reader_is_told_by_the_newest_titles_and_the_commonest_themes() -> None:
    profiles = ["Like A. About romance, dark.", "Like B. About fantasy, dark.", "Like C. About fantasy, winter."]
    entries = [{"title": name, "profile": text} for name, text in zip("ABC", profiles, strict=True)]
    assert user_answer(entries)[0] == "Likes A and B. About dark, fantasy."


@pytest.mark.parametrize(
    ("title", "short"),
    [
        ("Crow (Boston Underworld) (Volume 1)", "Crow"),
        ("Grey: Fifty Shades as Told by Christian", "Grey"),
        ("Just an Illusion - Side A", "Just an Illusion"),
        ("(500) Days", "(500) Days"),
        ("one two three four five six seven", "one two three four five"),
    ],
)
def test_short_titles(title: str, short: str) -> None:
    assert short_title(title) == short


@pytest.mark.parametrize("of", [shop_of_dataset, lambda dataset: synthetic_shop(seed=3)])
def test_every_lesson_is_an_answer_that_the_pipeline_accepts(dataset: Folder, of: Callable[[Folder], Shop]) -> None:
    made = lessons(of(dataset), 60, np.random.default_rng(0))
    assert {lesson.kind for lesson in made} == set(KINDS)
    for lesson in made:
        answer = parse_answer(lesson.kind, lesson.answer, 100, finished=True)
        assert answer.error == "", lesson.answer
        assert "$" not in lesson.prompt.user


def test_the_folder_is_an_ordinary_one_and_is_made_once(dataset: Folder, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(standin.standin_dir(CONFIG, dataset, cache_root=tmp_path / "cache"))
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "Which?"}], add_generation_prompt=True)
    assert tokenizer.decode(ids["input_ids"]).endswith("<|assistant|>")
    assert model.config.vocab_size == len(tokenizer)
    assert not list(folder.glob("*.bin")) + list(folder.glob("*.pkl"))

    written = (folder / standin.CARD).stat().st_mtime_ns
    assert standin.standin_dir(CONFIG, dataset, cache_root=tmp_path / "cache") == str(folder)
    assert (folder / standin.CARD).stat().st_mtime_ns == written
    other = StandinConfig(**(CONFIG.model_dump() | {"seed": 1}))
    assert standin.fingerprint(other, shop_of_dataset(dataset)) != folder.name

    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert standin.standin_dir(CONFIG, dataset, cache_root=tmp_path / "cache") == str(folder)
    assert standin.is_whole(folder)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name]


def test_one_that_names_too_few_genres_is_refused_and_not_kept(dataset: Folder, tmp_path: Path) -> None:
    strict = StandinConfig(**(CONFIG.model_dump() | {"num_steps": 1, "min_genre_accuracy": 1.0}))
    with pytest.raises(UserError, match=r"raise llm.standin.num_steps \(1\) or name a real model"):
        standin.standin_dir(strict, dataset, cache_root=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
