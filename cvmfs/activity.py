"""What one mount has done so far: the numbers behind the attributes that the client makes up."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

_KEPT_MESSAGES = 10
_MOST_TEXT = 2000


@dataclass(slots=True)
class Activity:
    """Counted by the file system's thread. `expires` says when (Unix s) a new revision is looked for, None for never;
    `started` and `last_error` are Unix seconds, the latter 0 before the first error."""

    clock: Callable[[], float] = time.time
    started: float = 0.0
    expires: float | None = None
    opens: int = 0
    directory_opens: int = 0
    open_files: int = 0
    open_directories: int = 0
    errors: int = 0
    last_error: int = 0
    highest_inode: int = 1
    messages: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=_KEPT_MESSAGES))

    def __post_init__(self) -> None:
        self.started = self.clock()

    def failed(self) -> None:
        """Note that a request was answered with EIO."""
        self.errors += 1
        self.last_error = int(self.clock())

    def minutes_left(self) -> str:
        """Minutes until a new revision is looked for."""
        if self.expires is None:
            return "never (fixed root catalog)"
        return str(max(0, int(self.expires - self.clock())) // 60)

    def log(self) -> str:
        """The last messages, a line each."""
        form = "%d %b %Y %H:%M:%S"
        return "".join(f"[{time.strftime(form, time.gmtime(when))} UTC] {text}\n" for when, text in self.messages)


class MessageKeeper(logging.Handler):
    """Keeps the last messages of the log in an Activity."""

    def __init__(self, activity: Activity) -> None:
        super().__init__()
        self._activity = activity

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        self._activity.messages.append((record.created, record.getMessage()[:_MOST_TEXT]))
