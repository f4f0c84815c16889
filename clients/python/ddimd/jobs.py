"""Training runs: follow, cancel, resume, publish."""
from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Optional, Union

from .errors import JobFailed
from .results import Image

if TYPE_CHECKING:
    from .client import Client
    from .transport import Answer, Stop

ENDED = ("succeeded", "failed", "cancelled")


@dataclasses.dataclass(frozen=True)
class JobEvent:
    """Something that happened to a job. `kind` is "state", "step", "epoch", "checkpoint", "end" or another word; `data` is
    what there is to say, as {"step": 10, "loss": 0.1, ...}; `id` counts from 1."""
    id: int
    kind: str
    data: Dict[str, Any]

    @property
    def is_last(self) -> bool:
        return self.kind == "state" and self.data.get("state") in ENDED


class Job:
    """One job of the daemon. `info` is what it said last, as GET /jobs/{id} does; refresh() asks again."""

    def __init__(self, client: "Client", info: Dict[str, Any]):
        self._client = client
        self.info = info

    @property
    def id(self) -> int:
        return int(self.info["id"])

    @property
    def name(self) -> str:
        return str(self.info["name"])

    @property
    def state(self) -> str:
        """"queued", "running", "succeeded", "failed" or "cancelled", as of the last answer."""
        return str(self.info["state"])

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def progress(self) -> Dict[str, Any]:
        """step, total_steps, epoch, fraction, checkpoint_step."""
        return dict(self.info["progress"])

    def _ask(self, method: str, suffix: str, **keywords: Any) -> "Answer":
        return self._client._transport.request(method, f"/jobs/{self.id}{suffix}", **keywords)

    def refresh(self) -> "Job":
        self.info = self._ask("GET", "").object()
        return self

    def events(self, after: int = 0, stop: Optional["Stop"] = None) -> Iterator[JobEvent]:
        """All events from the first (or from the one after `after`), as they come, until the job ends. A stream that breaks
        is taken up again where it broke, also over a restart of the daemon."""
        for event in self._client._transport.events("GET", f"/jobs/{self.id}/events", last_id=str(after) if after else "",
                                                    stop=stop):
            one = JobEvent(int(event.id), event.name, json.loads(event.data))
            yield one
            if one.is_last:
                break
        self.refresh()

    __iter__ = events

    def wait(self, on_event: Optional[Callable[[JobEvent], None]] = None) -> "Job":
        """Returns once the job has succeeded; raises JobFailed where it failed or was cancelled."""
        for event in self.events(after=0 if on_event else self.refresh().info["last_event"]):
            if on_event:
                on_event(event)
        if self.state != "succeeded":
            raise JobFailed(self, self.state, (self.info.get("end") or {}).get("message", ""))
        return self

    def cancel(self) -> "Job":
        """Asks it to stop after a checkpoint; wait for the last of its events to see it stopped."""
        self.info = {**self.info, **self._ask("POST", "/cancel").object()["job"]}
        return self

    def resume(self) -> "Job":
        """A failed or cancelled job goes on from its last checkpoint."""
        self.info = {**self.info, **self._ask("POST", "/resume").object()["job"]}
        return self

    def retry(self) -> "Job":
        """A new job with the configuration of this ended one."""
        return Job(self._client, self._ask("POST", "/retry").object())

    def delete(self) -> None:
        """Removes the ended job with all that it produced."""
        self._ask("DELETE", "")

    def publish(self, name: str, checkpoint: Union[str, int] = "best", default: bool = False) -> Dict[str, Any]:
        """Serves its result as the model `name`. checkpoint: "best", "last" or the number of an epoch. Returns the model."""
        body = json.dumps({"job": self.id, "checkpoint": checkpoint}).encode()
        path = f"/models/{self._client._quote(name)}/from-job"
        model = self._client._transport.request("POST", path, body, "application/json").object()
        return self._client.set_default(name) if default else model

    def metrics(self, max_points: int = 1000) -> Dict[str, Any]:
        """{"steps": [...], "epochs": [...]}: the curve, thinned by minimum and maximum."""
        return self._ask("GET", f"/metrics?max_points={max_points}").object()

    def log(self) -> str:
        """The program's whole output so far."""
        text, offset = b"", 0
        while True:
            answer = self._ask("GET", f"/log?offset={offset}", accept="text/plain")
            if not answer.body:
                return text.decode("utf-8", "replace")
            text += answer.body
            offset = int(answer.headers.get("X-Log-Next", offset + len(answer.body)))

    def samples(self) -> List[int]:
        """The epochs that have a grid of samples."""
        return [s["epoch"] for s in self._ask("GET", "/samples").object()["samples"]]

    def sample(self, epoch: Optional[int] = None) -> Image:
        """The grid of samples of an epoch, the newest where none is named."""
        if epoch is None:
            epochs = self.samples()
            if not epochs:
                raise JobFailed(self, self.state, "it has no samples yet")
            epoch = epochs[-1]
        return Image(self._ask("GET", f"/samples/{epoch}.png", accept="image/png").body)

    def result(self) -> Image:
        """The picture of a generation that was left as a job; see Client.detach()."""
        return Image(self._ask("GET", "/result", accept="image/png").body)

    def result_array(self) -> Any:
        """Its numbers, numpy float32 [N, H, W, C]. Needs numpy."""
        import io

        import numpy
        return numpy.load(io.BytesIO(self._ask("GET", "/result", accept="application/x-npy").body), allow_pickle=False)

    def checkpoints(self) -> List[Dict[str, Any]]:
        return list(self._ask("GET", "/checkpoints").object()["checkpoints"])

    def __repr__(self) -> str:
        return f"Job({self.id}, {self.name!r}, {self.state})"
