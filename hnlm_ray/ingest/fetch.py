"""`hnlm data fetch NAME`: download a data set where its licence lets anyone do so, or say where to get it."""

import difflib
import hashlib
import shutil
import urllib.error
import urllib.request
import uuid
import zipfile
from dataclasses import dataclass
from pathlib import Path

from hnlm_ray.errors import UserError

_TIMEOUT_S = 60
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Download:
    """An archive that may be fetched by a program, and the checksum that its publisher gives."""

    url: str
    md5: str
    format: str
    terms: str


@dataclass(frozen=True)
class Elsewhere:
    """Data that a person has to ask for or agree to terms for."""

    where: str
    format: str
    terms: str


_GROUPLENS = "research use, no redistribution without permission; see the README in the archive"
_AMAZON = "no licence is stated for the reviews themselves; cite the paper that the page names"

DATASETS: dict[str, Download | Elsewhere] = {
    "ml-100k": Download(
        "https://files.grouplens.org/datasets/movielens/ml-100k.zip",
        "0e33842e24a9c977be4e0107933c0723",
        "movielens",
        _GROUPLENS,
    ),
    "ml-1m": Download(
        "https://files.grouplens.org/datasets/movielens/ml-1m.zip",
        "c4d9eecfca2ab87c1945afe126590906",
        "movielens",
        _GROUPLENS,
    ),
    "ml-20m": Download(
        "https://files.grouplens.org/datasets/movielens/ml-20m.zip",
        "cd245b17a1ae2cc31bb14903e1204af3",
        "movielens",
        _GROUPLENS,
    ),
    "ml-25m": Download(
        "https://files.grouplens.org/datasets/movielens/ml-25m.zip",
        "6b51fb2759a8657d3bfcbfc42b592ada",
        "movielens",
        _GROUPLENS,
    ),
    "amazon2018": Elsewhere(
        "https://nijianmo.github.io/amazon/ : `<category>.json.gz` (or its 5-core) and `meta_<category>.json.gz`",
        "amazon2018",
        _AMAZON,
    ),
    "amazon2023": Elsewhere(
        "https://amazon-reviews-2023.github.io/ : `<category>.jsonl.gz` and `meta_<category>.jsonl.gz`",
        "amazon2023",
        _AMAZON,
    ),
    "yelp": Elsewhere(
        "https://www.yelp.com/dataset : agree to the terms, unpack, keep the review and business files",
        "yelp",
        "Yelp's Dataset Terms of Use, which every user must accept in person",
    ),
    "recbole": Elsewhere(
        "https://recbole.io/dataset_list.html : the atomic files of a data set",
        "recbole",
        "those of each original data set",
    ),
    "lightgcn": Elsewhere(
        "https://github.com/gusye1234/LightGCN-PyTorch , folder `data/`: gowalla, yelp2018, amazon-book",
        "lightgcn",
        "none stated for the data",
    ),
}


def fetch(name: str, to: str | Path = "data") -> str:
    """Download the data set `name` into the folder `to/name`, or return where a person can get it.

    Raises:
        UserError: unknown name, no connection, a download that does not match its checksum.
    """
    if name not in DATASETS:
        nearest = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise UserError(f"data set {name!r} is unknown: there are {', '.join(DATASETS)}{hint}")
    source = DATASETS[name]
    target = Path(to) / name
    if isinstance(source, Elsewhere):
        return (
            f"{name} is not ours to download. Get it from\n  {source.where}\nTerms: {source.terms}.\n"
            f"Put the files into a folder, then\n  data: {{format: {source.format}, path: FOLDER}}"
        )
    if target.exists():
        return f"{target} is there already; delete it to fetch {name} again"
    target.parent.mkdir(parents=True, exist_ok=True)
    archive = target.with_name(f".{name}-{uuid.uuid4().hex}.zip")
    try:
        _download(source, archive)
        _unpack(archive, target)
    finally:
        archive.unlink(missing_ok=True)
    return f"{name} is in {target}. Terms: {source.terms}.\n  data: {{format: {source.format}, path: {target}}}"


def _download(source: Download, archive: Path) -> None:
    """Stream the archive to disk. The checksum is the publisher's own MD5: it finds damage, TLS keeps out strangers."""
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with urllib.request.urlopen(source.url, timeout=_TIMEOUT_S) as answer, archive.open("wb") as file:
            while block := answer.read(_BLOCK_BYTES):
                digest.update(block)
                file.write(block)
    except (urllib.error.URLError, OSError) as error:
        raise UserError(
            f"{source.url} cannot be fetched ({error}): check the connection, or fetch it by hand"
        ) from None
    if digest.hexdigest() != source.md5:
        raise UserError(
            f"{source.url} has checksum {digest.hexdigest()}, not the published {source.md5}: nothing was kept; "
            "try again, or see whether a new version was published"
        )


def _unpack(archive: Path, target: Path) -> None:
    """The archive's files by their bare names, all into one folder that appears when it is complete."""
    staging = target.with_name(archive.stem)
    staging.mkdir()
    try:
        with zipfile.ZipFile(archive) as packed:
            for member in packed.infolist():
                name = Path(member.filename).name  # never a path: an archive must not write elsewhere
                if not member.is_dir() and not name.startswith("."):
                    with packed.open(member) as source, (staging / name).open("wb") as file:
                        shutil.copyfileobj(source, file)
        staging.rename(target)
    except zipfile.BadZipFile as error:
        shutil.rmtree(staging)
        raise UserError(f"{archive.name} is no zip archive ({error}): fetch it by hand") from None
