"""One live progress line per stage, on the terminal that the user sees, and whoever else wants to hear of it."""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from tqdm import tqdm

if TYPE_CHECKING:
    from hnlm_ray.tracking import Observer

_BAR = "{desc} {bar:20} {n_fmt}/{total_fmt} {unit} {rate_fmt} {elapsed}<{remaining}{postfix}"


class Progress:
    """The progress of one stage: rows, rows/s, tokens/s, ETA and failures in one line."""

    def __init__(self, stage: str, stream: TextIO | None = None, observers: "Sequence[Observer]" = ()) -> None:
        self._stage = stage
        self._observers = observers
        self._stream = stream or sys.stderr
        self._bar: tqdm | None = None
        self._tokens = 0
        self._failed = 0

    @property
    def tokens(self) -> int:
        """Tokens counted so far, prompts and completions."""
        return self._tokens

    def start(self, total: int | None, unit: str = "rows", part: str = "") -> None:
        """Begin a line of `total` rows; a stage of several parts begins one line each."""
        self.close()
        self._tokens = self._failed = 0
        label = f"{self._stage} {part}".strip()
        interactive = self._stream.isatty()
        self._bar = tqdm(
            total=total,
            desc=f"{label:<17}",
            unit=unit,
            file=self._stream,
            bar_format=_BAR if total else None,
            mininterval=0.2 if interactive else 5.0,
            dynamic_ncols=interactive,
            ncols=None if interactive else 110,
        )

    def update(self, rows: int = 0, *, tokens: int = 0, failed: int = 0, note: str = "") -> None:
        """Count finished rows, their tokens and how many of them failed."""
        for observer in self._observers:
            observer.count(self._stage, rows, tokens, failed)
        self._show(rows, tokens, failed, note)

    def _show(self, rows: int, tokens: int, failed: int, note: str) -> None:
        if self._bar is None:
            self.start(None)
        assert self._bar is not None
        self._tokens += tokens
        self._failed += failed
        parts = [f"{self._tokens / max(self._bar.format_dict['elapsed'], 1e-9):.0f} tok/s"] if self._tokens else []
        parts += [f"{self._failed} failed"] if self._failed else []
        parts += [note] if note else []
        self._bar.set_postfix_str(", ".join(parts), refresh=False)
        self._bar.update(rows)

    def reach(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """Move to `done` of `total` (epochs or steps of a training loop) and show its metrics."""
        if self._bar is None:
            self.start(total, unit="steps")
        assert self._bar is not None
        self._bar.total = total
        for observer in self._observers:
            observer.reach(self._stage, done, metrics)
        note = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        self._show(done - self._bar.n, 0, 0, note)

    def finish(self, metrics: Mapping[str, float]) -> None:
        """Tell the observers that the stage is complete, with its last figures."""
        for observer in self._observers:
            observer.finish(self._stage, metrics)

    def close(self) -> None:
        """End the line and leave it on the screen."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
