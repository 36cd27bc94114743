"""Stream density: how many cameras a machine keeps up with, by the method that Intel publishes, and by one that asks for more.

Intel's performance-tools for retail add streams one at a time until their mean rate falls below 14.95 frames a second; here, with a
tolerance, a count of streams is decided by two windows in a row that agree, each of 60 samples of the rate. It asks nothing of a frame's
age, and nothing of frames that were skipped to keep up: both can be bad while the rate looks fine. So a count is also judged `strictly`:
the age of information at p99, and how wrong the counts are, frames that were dropped included. Pure: the measuring is elsewhere.

Source: intel-retail/performance-tools, benchmark-scripts/stream_density.py (target, increment, mean over the streams).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

TARGET_FPS = 14.95
SOURCE_FPS = 15.0  # what each camera delivers
TOLERANCE = 0.95
WINDOW = 60  # samples
AGREE = 2  # windows in a row
MOST_WINDOWS = 6  # a count that goes to and fro so often has not passed
AGE_S = 0.200  # information older than this steers nobody's staff
WRONG = 0.10  # how far the counts may be off from those of the same network that sees every frame, as a share


@dataclass(frozen=True, slots=True)
class Window:
    """What a window of samples saw. `rates`: mean frames/s of each stream, looked at or gated; `ages_s`: of each frame, capture to event.

    `due`, `lost`: frames of all streams that fell due in it, and those that were dropped. `wrong`: mean error of the count of people at
    every frame that fell due, as a share of the mean count; a frame that was dropped is charged with the count that stood meanwhile.
    """

    streams: int
    rates: tuple[float, ...]
    age_p99_s: float | None
    due: int
    lost: int
    wrong: float | None

    @property
    def rate(self) -> float:
        """Mean over the streams, frames/s."""
        return sum(self.rates) / len(self.rates)

    @property
    def keeps_up(self) -> bool:
        """Intel's condition."""
        return self.rate >= TOLERANCE * TARGET_FPS

    @property
    def strictly(self) -> bool:
        """Intel's condition for each single stream, information no older than AGE_S at p99, and counts no further off than WRONG."""
        slowest = min(self.rates) >= TOLERANCE * TARGET_FPS
        in_time = self.age_p99_s is not None and self.age_p99_s <= AGE_S
        return slowest and in_time and self.wrong is not None and self.wrong <= WRONG


def settled(verdicts: Sequence[bool]) -> bool | None:
    """What the last windows of a count agree on; None while they do not. A count that never settles has failed."""
    last = verdicts[-AGREE:]
    if len(last) == AGREE and len(set(last)) == 1:
        return last[0]
    return False if len(verdicts) >= MOST_WINDOWS else None


def climb(window: Callable[[int], Window], *, most: int) -> Iterator[Window]:
    """Add streams one at a time, and yield each window, until a count fails by Intel's condition or `most` is reached."""
    for streams in range(1, most + 1):
        verdicts: list[bool] = []
        while settled(verdicts) is None:
            yield (seen := window(streams))
            verdicts.append(seen.keeps_up)
        if not settled(verdicts):
            return


def density(windows: Sequence[Window], keeps: Callable[[Window], bool] = lambda window: window.keeps_up) -> int:
    """The most streams that pass by `keeps`, with all smaller counts passing as well; 0 where not even one does."""
    passed = 0
    for streams in range(1, max((window.streams for window in windows), default=0) + 1):
        verdicts = [keeps(window) for window in windows if window.streams == streams]
        if not verdicts or not all(verdicts[-AGREE:]):
            return passed
        passed = streams
    return passed
