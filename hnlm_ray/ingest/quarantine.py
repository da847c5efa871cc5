"""Bad rows: kept with file, line and reason, counted, and too many of them refused."""

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from hnlm_ray.errors import UserError
from hnlm_ray.ingest.schema import QUARANTINE, BadRow, Part
from hnlm_ray.store import Folder

MAX_KEPT_PER_PART = 100_000
"""Bad rows of one part that are written out; all are counted."""


def bad_rows_table(file: str, bad: Sequence[BadRow]) -> pa.Table:
    """The quarantine rows of one part, line numbers still counted within the part."""
    return pa.table(
        {
            "file": [file] * len(bad),
            "row": [row.row for row in bad],
            "reason": [row.reason for row in bad],
            "value": [row.value for row in bad],
        },
        schema=QUARANTINE,
    )


def publish(work: Folder, quarantine: Folder, table: str, parts: Sequence[Part], lines: Sequence[int]) -> None:
    """Write the quarantine of one table: line numbers become those of the whole file, counted from 1.

    `lines` [parts]: lines or records that each part held.
    """
    for number, part in enumerate(parts):
        name = f"{table}-{number:06d}.parquet"
        if work.exists(f"quarantine/{name}"):
            before = sum(lines[i] for i in range(number) if parts[i].name == part.name)
            rows = work.read_table(f"quarantine/{name}")
            absolute = pc.add(rows["row"], before + 1)
            quarantine.write_table(name, rows.set_column(1, "row", absolute))


def refuse_too_many(table: str, num_bad: int, num_read: int, limit: float, reasons: Counter[str], place: str) -> None:
    """Raise `UserError` with the five most common reasons when the bad rows pass the limit."""
    if num_read and num_bad / num_read > limit:
        common = "; ".join(f"{reason}: {count:,}" for reason, count in reasons.most_common(5))
        raise UserError(
            f"{num_bad:,} of {num_read:,} {table} rows ({num_bad / num_read:.1%}) are unusable, more than "
            f"data.max_bad_fraction={limit:g} allows ({common}); mend what {place} lists, or raise it"
        )
