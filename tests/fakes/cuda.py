"""A torch.cuda to put in the place of the real one: it notes what is asked of it, in order, and a test decides how long passes take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any


class FakeCuda:
    """`said`: every call in order. The clock `now_ms` is the GPU's, moved by `work`; `mhz` are its clocks as they will be read."""

    def __init__(self, *, available: bool = True, mhz: tuple[float, ...] = (1980.0,), l2_bytes: int = 1000) -> None:
        self.said: list[str] = []
        self.now_ms, self.mhz, self._available, self._l2_bytes, self._streams = 0.0, list(mhz), available, l2_bytes, 0
        self.stream_now = Stream(self, "main")
        self.allocated = self.most = 0
        fake = self

        class Event:
            def __init__(self, *, enable_timing: bool) -> None:
                assert enable_timing, "an event that keeps no time cannot be asked for it"
                self.at_ms: float | None = None

            def record(self) -> None:
                fake.said.append("event")
                self.at_ms = fake.now_ms

            def elapsed_time(self, other: Any) -> float:
                assert fake.said[-1] == "synchronize" and self.at_ms is not None, "nobody waited for the GPU"
                return float(other.at_ms - self.at_ms)

        self.Event = Event

    def work(self, ms: float, name: str = "pass") -> Callable[[], str]:
        """A pass of so long."""

        def infer() -> str:
            self.said.append(name if self.stream_now.name == "main" else f"{name} on {self.stream_now.name}")
            self.now_ms += ms
            return "answer"

        return infer

    def is_available(self) -> bool:
        return self._available

    def synchronize(self) -> None:
        self.said.append("synchronize")

    def get_device_properties(self, index: int) -> SimpleNamespace:
        return SimpleNamespace(name="Fake", multi_processor_count=132, major=9, minor=0, L2_cache_size=self._l2_bytes, total_memory=10**9)

    def clock_rate(self) -> float:
        if not self.mhz:
            raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed")
        return self.mhz.pop(0) if len(self.mhz) > 1 else self.mhz[0]

    def Stream(self) -> Stream:
        self._streams += 1
        return Stream(self, f"side {self._streams}")

    def current_stream(self) -> Stream:
        return self.stream_now

    @contextmanager
    def stream(self, other: Stream) -> Iterator[None]:
        before, self.stream_now = self.stream_now, other
        yield
        self.stream_now = before

    def CUDAGraph(self) -> SimpleNamespace:
        return SimpleNamespace(replay=lambda: self.said.append("replay"))

    @contextmanager
    def graph(self, recorded: Any) -> Iterator[None]:
        self.said.append("capture")
        yield
        self.said.append("captured")

    def reset_peak_memory_stats(self) -> None:
        self.said.append("forget")
        self.most = self.allocated

    def memory_allocated(self) -> int:
        return self.allocated

    def max_memory_allocated(self) -> int:
        return self.most


class Stream:
    def __init__(self, fake: FakeCuda, name: str) -> None:
        self._fake, self.name = fake, name

    def wait_stream(self, other: Stream) -> None:
        self._fake.said.append(f"{self.name} waits for {other.name}")
