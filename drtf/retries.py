"""Retries of work that failed through no fault of its input."""

import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

# Waits between the tries. A network disk or a lack of memory may recover within them.
RETRY_SECONDS = (0.5, 1.5, 4.0)


def retry(
    call: Callable[[], Result], *, is_temporary: Callable[[Exception], bool]
) -> Result:
    """Call a function again, after growing waits, while it fails for a passing reason.

    Args:
        call: The function.
        is_temporary: Whether an error may go away by itself. Any other error, and that
            of the last try, is raised.
    """
    for seconds in RETRY_SECONDS:
        try:
            return call()
        except Exception as error:
            if not is_temporary(error):
                raise
        time.sleep(seconds)
    return call()
