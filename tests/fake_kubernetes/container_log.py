"""A container's output, line by line with the time of each, to be read once or followed until the container ends."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from fake_kubernetes.objects import log_timestamp, now


@dataclass(frozen=True)
class LogLine:
    """A line of output, with its line end."""

    time: datetime
    text: bytes

    def with_time(self) -> bytes:
        """Return the line as `timestamps=true` gives it."""
        return log_timestamp(self.time).encode() + b" " + self.text


class ContainerLog:
    """Lines that are added by one thread and read by others."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._lines: list[LogLine] = []
        self._is_closed = False

    def add(self, text: bytes) -> None:
        """Add a line with the time of day."""
        with self._changed:
            self._lines.append(LogLine(now(), text if text.endswith(b"\n") else text + b"\n"))
            self._changed.notify_all()

    def close(self) -> None:
        """Say that no more will come."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def text(self, last: int | None = None) -> str:
        """Return all lines, or the last ones, as text."""
        with self._changed:
            lines = self._lines if last is None else self._lines[-last:]
            return b"".join(line.text for line in lines).decode(errors="replace")

    def read(
        self, *, since: datetime | None = None, last: int | None = None, follow: bool = False
    ) -> Iterator[LogLine]:
        """Give the lines from a time on, at most the `last` of those there are; `follow`: and those to come."""
        with self._changed:
            position = len(self._lines)
            first = self._lines[0 if last is None else max(0, position - last) :]
        yield from (line for line in first if since is None or line.time >= since)
        while follow:
            with self._changed:
                while len(self._lines) == position and not self._is_closed:
                    self._changed.wait()
                news = self._lines[position:]
            if not news:
                return
            position += len(news)
            yield from news
