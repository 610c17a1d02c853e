"""Storage that does not answer for a while: what passes by itself is tried again, and said once."""

import errno
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ndsm.core.atomic_file import NO_ROOM
from ndsm.core.uris import one_line

T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 15.0
"""Seconds between tries, which double from the first to the longest."""
LASTING = (*NO_ROOM, errno.EACCES, errno.EPERM, errno.EROFS)
"""Error numbers of what waiting does not mend."""
LASTING_ANSWERS = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH")
"""Arrow's words for the same answers of an object store."""


class StorageAway(OSError):
    """The storage has not answered for as long as it was waited for; one sentence."""


def passes(error: OSError) -> bool:
    """Whether storage that failed like this may answer again by itself."""
    lasting = error.errno in LASTING or any(word in str(error) for word in LASTING_ANSWERS)
    return not (lasting or isinstance(error, StorageAway))


class Outage:
    """The time for which a storage has not answered.

    Args:
        place: URI of the storage, for messages.
        kept: the folder in which everything is meanwhile.
        seconds: how long it is waited for; 0 for not at all.
        warn: told of the first failure and of the first answer after it; a Python warning if None.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        place: str,
        kept: Path,
        seconds: float = 0.0,
        warn: Callable[[str], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._place, self._kept, self._clock = place, kept, clock
        self.seconds, self.warn = seconds, warn
        self._since: float | None = None
        self._next, self._pause = 0.0, FIRST_PAUSE

    def attempt(self, action: Callable[[], object]) -> bool:
        """Do it if the storage answers; whether it was done. While it does not, it is asked now and then only.

        Raises:
            StorageAway: it has not answered for too long.
            OSError: waiting does not mend what went wrong.
        """
        if self._since is not None and self._clock() < self._next:
            return False
        try:
            action()
        except OSError as error:
            self._failed(error)
            return False
        self._answered()
        return True

    def wait(self, action: Callable[[], T], give_up: Callable[[], bool] = lambda: False) -> T:
        """Do it as soon as the storage answers.

        Args:
            give_up: asked between tries; true ends the wait.

        Raises:
            StorageAway: it has not answered for too long, or the wait was given up.
            OSError: waiting does not mend what went wrong.
        """
        while True:
            try:
                done = action()
            except OSError as error:
                self._failed(error)
                while self._clock() < self._next:
                    if give_up():
                        raise self._away(error) from None
                    time.sleep(min(0.2, FIRST_PAUSE))
            else:
                self._answered()
                return done

    def _failed(self, error: OSError) -> None:
        if not (self.seconds and passes(error)):
            raise error
        now = self._clock()
        if self._since is None:
            self._since, self._pause = now, FIRST_PAUSE
            self.say(
                f"{self._place} does not answer ({one_line(error)}); it is tried again for up to train.storage_seconds "
                f"({self.seconds:g} s), and meanwhile everything is kept in {self._kept}"
            )
        if now - self._since >= self.seconds:
            raise self._away(error) from None
        self._next, self._pause = now + self._pause, min(2 * self._pause, LONGEST_PAUSE)

    def _answered(self) -> None:
        if self._since is not None:
            self.say(f"{self._place} answers again, after {self._clock() - self._since:.0f} s")
        self._since = None

    def _away(self, error: OSError) -> StorageAway:
        waited = 0.0 if self._since is None else self._clock() - self._since
        return StorageAway(
            f"{self._place} has not answered for {waited:.0f} s ({one_line(error)}): what it lacks is in {self._kept}, and the "
            "same command goes on from there once the storage answers"
        )

    def say(self, text: str) -> None:
        """Tell the user."""
        (self.warn or warnings.warn)(text)
