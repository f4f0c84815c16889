"""What can go wrong, as exceptions. All of them are DdimdError."""
from __future__ import annotations

from typing import Any, Mapping, Optional


class DdimdError(Exception):
    """Anything that this package raises on its own."""


class ConnectionLost(DdimdError):
    """No daemon answers at this address, or the connection broke, also after the retries."""


class ProblemError(DdimdError):
    """The daemon answered with a problem (RFC 9457).

    `status`, `type` (as "/problems/bad-field"), `title`, `detail`; `field` names the one at fault; `allowed` and `nearest`
    say what would be right; `retry_after` in seconds where it makes sense to wait; `request_id` finds it in the log.
    """

    def __init__(self, problem: Mapping[str, Any], status: int, retry_after: Optional[float] = None):
        self.problem = dict(problem)
        self.status = status
        self.type: str = problem.get("type", "about:blank")
        self.title: str = problem.get("title", "")
        self.detail: str = problem.get("detail", "")
        self.field: Optional[str] = problem.get("field")
        self.allowed: Any = problem.get("allowed")
        self.nearest: Optional[str] = problem.get("nearest")
        self.request_id: Optional[str] = problem.get("instance")
        self.retry_after = retry_after
        text = self.detail or self.title or f"the server answered {status}"
        if self.field and self.field not in text:
            text = f"{self.field} {text}"
        if self.nearest and self.nearest not in text:
            text += f"; did you mean {self.nearest}?"
        super().__init__(text)


class Refused(ProblemError):
    """A field or a configuration is wrong (400, 413, 422 and their like)."""


class Forbidden(ProblemError):
    """The key is missing, wrong, or not allowed to do this (401, 403)."""


class NotFound(ProblemError):
    """There is no such model, job or file (404)."""


class WrongState(ProblemError):
    """The job is not in a state in which this is possible (409)."""


class Busy(ProblemError):
    """The daemon is busy, starting or stopping, also after the retries (429, 503)."""


class TimeUp(ProblemError):
    """The time given has passed (504)."""


class ServerFailed(ProblemError):
    """The daemon failed (other 5xx)."""


class JobFailed(DdimdError):
    """A job that was waited for failed or was cancelled; `job` is the job."""

    def __init__(self, job: Any, state: str, message: str):
        self.job = job
        super().__init__(f"job {job.id} {state}" + (f": {message}" if message else ""))


_BY_STATUS = {401: Forbidden, 403: Forbidden, 404: NotFound, 408: TimeUp, 409: WrongState, 429: Busy, 503: Busy, 504: TimeUp}


def problem_error(problem: Any, status: int, retry_after: Optional[float] = None) -> ProblemError:
    kind = _BY_STATUS.get(status, ServerFailed if status >= 500 else Refused)
    return kind(problem if isinstance(problem, dict) else {}, status, retry_after)
