from pathlib import Path

import pytest

from hnlm_ray.config import RunConfig, load_config, parse_config
from hnlm_ray.errors import UserError
from hnlm_ray.settings import Section, operational

CONFIGS = Path(__file__).parents[2] / "configs"


def config_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def test_overrides_reach_nested_keys_and_the_file_names_the_run(tmp_path: Path) -> None:
    config = load_config(config_file(tmp_path, "train: {epochs: 3}\n"), ["train.epochs=7", "llm.replicas=[1, 4]"])
    assert (config.train.epochs, config.llm.replicas, config.name) == (7, (1, 4), "mine")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=3", "unknown key 'train.epoch'; did you mean 'train.epochs'"),
        ("data.synthetic.num_user=3", "did you mean 'data.synthetic.num_users'"),
        ("zzz=1", "the top level has: name, seed, data"),
        ("train.epochs=many", "train.epochs='many' is not accepted"),
        ("llm.replicas=[3, 1]", r"llm.replicas is \[3, 1\]; accepted"),
        ("seed=-1", "seed=-1 is not accepted"),
        (
            "embed.max_pairs_per_user=0",
            "embeds items alone, and train.hnlm.variant='aligned' reads",
        ),
        ("train.model=ease", "model='ease' is not trained with negatives: set hnlm.variant to none"),
        ("evaluate.ks=[0, 10]", r"evaluate\.ks\.0=0 is not accepted"),
        ("train.monitor=ndcg@0", "train.monitor='ndcg@0' is not accepted"),
        ("llm.engine_args.model=other/model", r"llm\.engine_args\.model is not accepted: set llm\.model instead"),
        ("llm.engine_args.trust_remote_code=true", r"set llm\.trust_remote_code instead"),
        ("llm.engine_args.hf_token=hf_1", r"set the environment variable HF_TOKEN instead$"),
        ("encoder.engine_args.pooler_config=x", r"set encoder\.pooling instead"),
        ("llm.trust_remote_code=other/model", "accepted: empty, or llm.model"),
        ("train.epochs", "write KEY=VALUE"),
        ("seed.deeper=1", "unknown key|seed is a value|not accepted"),
        ("train.epochs=[", "no valid YAML"),
    ],
)
def test_a_wrong_override_is_one_line_that_names_it(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_config(config_file(tmp_path, ""), [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("- a\n- b\n", "a mapping of sections"), ("a: [1\n", "no valid YAML"), ("\x00", "no valid YAML")],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(config_file(tmp_path, text))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UserError, match=r"'nowhere\.yaml' does not exist"):
        load_config("nowhere.yaml")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_config_of_the_project_is_valid(path: Path) -> None:
    assert load_config(path).name == path.stem


def test_a_resolved_config_loads_to_the_same_config() -> None:
    config = parse_config({"seed": 3, "train": {"epochs": 2}})
    assert parse_config(config.model_dump(mode="json")) == config


def documented(model: type[Section], prefix: str = "") -> list[str]:
    missing = []
    for name, field in model.model_fields.items():
        if not field.description and prefix + name != "seed":
            missing.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            missing += documented(field.annotation, f"{prefix}{name}.")
    return missing


def test_every_key_is_documented_where_it_is_defined() -> None:
    assert documented(RunConfig) == []


def test_operational_keys_stay_out_of_results() -> None:
    class Inner(Section):
        threads: int = operational(2)
        dim: int = 8

    class Outer(Section):
        inner: Inner = Inner()
        place: str = operational("here")

    assert Outer().result_dict() == {"inner": {"dim": 8}}


def test_code_of_another_tokenizer_is_not_trusted_with_the_model() -> None:
    trusting = {"model": "a/model", "trust_remote_code": "a/model"}
    assert parse_config({"llm": trusting | {"tokenizer": "a/model"}}).llm.trust_remote_code == "a/model"
    with pytest.raises(UserError, match=r"trusts 'a/model' alone, and code of llm\.tokenizer \('other/repo'\)"):
        parse_config({"llm": trusting | {"tokenizer": "other/repo"}})


@pytest.mark.parametrize("endpoint", ["", "localhost:8000/v1", "host/v1", "http://", "ftp://host/v1"])
def test_an_endpoint_without_http_is_refused_before_it_is_asked(endpoint: str) -> None:
    with pytest.raises(UserError, match=f"llm.endpoint is '{endpoint}'; give a base URL such as http://"):
        parse_config({"llm": {"engine": "http", "endpoint": endpoint}})


@pytest.mark.parametrize("key", ["sk-abc123", "12ab", "a b"])
def test_a_key_in_place_of_its_variables_name_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(UserError, match=r"llm\.api_key_env is no name of an environment variable") as caught:
        parse_config({"llm": {"api_key_env": key}})
    assert key not in str(caught.value)
    assert parse_config({"llm": {"api_key_env": ""}}).llm.api_key_env == ""


@pytest.mark.parametrize("section", ["llm", "encoder"])
def test_engine_arguments_that_change_answers_are_part_of_the_result(section: str) -> None:
    def result(**engine_args: object) -> dict[str, object]:
        values: dict[str, object] = getattr(
            parse_config({section: {"engine_args": engine_args}}), section
        ).result_dict()
        return values

    plain = result()
    assert "engine_args" not in plain, "fingerprints without arguments are those of before"
    assert result(enforce_eager=True, kv_cache_memory_bytes=1 << 30) == plain
    assert result(enforce_eager=True, quantization="fp8") == plain | {"engine_args": {"quantization": "fp8"}}
