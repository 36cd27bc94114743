"""The stamps of one frame on its way from the camera to the event: each stage begins where the one before it ends.

So the stages add up to the frame's age by construction, and no time is unexplained.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

STAGES = ("wake", "decode", "wait", "fit", "infer", "turn", "follow", "event")


@dataclass(frozen=True, slots=True)
class Sample:
    """One frame that was seen. Stamps in s, monotonic; `place`: its index in the footage; `batch`: how many
    frames shared its inference, 0 where nothing moved and nobody looked."""

    camera: str
    number: int
    place: int
    batch: int
    people: int
    captured_s: float
    woken_s: float
    decoded_s: float
    taken_s: float
    fitted_s: float
    inferred_s: float
    turned_s: float
    followed_s: float
    sent_s: float

    @property
    def age_s(self) -> float:
        """From the moment when the frame was due to its event."""
        return self.sent_s - self.captured_s

    def stages(self) -> tuple[float, ...]:
        """Seconds of each of STAGES: waking the camera's thread, decoding, waiting for the detector, letterboxing (the whole batch),
        inferring (the whole batch), waiting for its turn to be followed, following (boxes, tracks, floor), putting it into words."""
        at = (self.captured_s, self.woken_s, self.decoded_s, self.taken_s, self.fitted_s,
              self.inferred_s, self.turned_s, self.followed_s, self.sent_s)  # fmt: skip
        return tuple(later - sooner for sooner, later in pairwise(at))
