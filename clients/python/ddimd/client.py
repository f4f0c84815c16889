"""The client: one object for one daemon."""
from __future__ import annotations

import json
import os
import pathlib
import secrets
import urllib.parse
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Union

from . import settings
from .errors import Busy, ConnectionLost, problem_error
from .jobs import Job
from .results import Preview, Progress, Replay, Result, parse_event
from .transport import Stop, Transport

Class = Union[int, str, Sequence[Union[int, str]]]
Config = Union[Mapping[str, Any], str, "os.PathLike[str]"]


class Client:
    """A daemon at `url` ("http://HOST:PORT", "https://...", "unix:/PATH"), asked with `key`.

    What is not given comes from DDIMD_URL, DDIMD_KEY and DDIMD_CA, then from ~/.config/ddimd/client.json. `ca`: a file of
    certificates to trust for https. `retries`: how often to try again where the daemon is busy or out of reach. Any number of
    threads may use one object.
    """

    def __init__(self, url: Optional[str] = None, key: Optional[str] = None, *, ca: Optional[str] = None, retries: int = 5):
        self._transport = Transport(settings.find("url", url) or settings.DEFAULT_URL, settings.find("key", key),
                                    settings.find("ca", ca), retries)

    @property
    def url(self) -> str:
        return self._transport.url

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    @staticmethod
    def _quote(name: str) -> str:
        return urllib.parse.quote(str(name), safe="")

    def _json(self, method: str, path: str, body: Any = None) -> Dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        return self._transport.request(method, path, data, "application/json" if data else None).object()

    # -- generating
    @staticmethod
    def _fields(class_: Optional[Class], fields: Dict[str, Any]) -> Dict[str, Any]:
        chosen = {name: value for name, value in fields.items() if value is not None}
        if class_ is not None:
            chosen["class"] = list(class_) if isinstance(class_, (list, tuple, range)) else class_
        # Chosen here, so that a second attempt gives the same bytes; not every JSON reader keeps 64 bits, a string's digits all do.
        chosen["seed"] = str(chosen.get("seed", secrets.randbits(53)))
        return chosen

    def generate(self, class_: Optional[Class] = None, n: Optional[int] = None, steps: Optional[int] = None, *,
                 method: Optional[str] = None, eta: Optional[float] = None, sampler: Optional[str] = None,
                 guidance: Optional[float] = None, seed: Optional[int] = None, model: Optional[str] = None,
                 nrow: Optional[int] = None, scale: Optional[int] = None, to_grayscale: Optional[bool] = None,
                 result_only: Optional[bool] = None, interval: Optional[int] = None, clip: Optional[bool] = None,
                 priority: Optional[str] = None, timeout_ms: Optional[int] = None,
                 on_event: Optional[Callable[[Union[Progress, Preview]], None]] = None) -> Result:
        """Generates images and waits for them.

        class_: an index, a name, a list of those, "all" or "none"; n images for each. Fields that are left out have the
        daemon's defaults. The same seed, fields and model give the same bytes. on_event is called with Progress and Preview.
        """
        fields = {k: v for k, v in locals().items() if k not in ("self", "class_", "on_event")}
        for event in self.stream(class_, **fields):
            if isinstance(event, Result):
                return event
            if on_event:
                on_event(event)
        raise ConnectionLost(f"{self.url}: the stream of events ended without a result")

    def stream(self, class_: Optional[Class] = None, n: Optional[int] = None, steps: Optional[int] = None, *,
               _stop: Optional[Stop] = None, **fields: Any) -> Iterator[Union[Progress, Preview, Result]]:
        """The same as it goes on: Progress and Preview, the Result as the last. Leaving the loop gives the generation up.

            for event in client.stream(class_=3, n=16):
                if isinstance(event, Progress):
                    print(f"{event.fraction:.0%}")
        """
        body = json.dumps(self._fields(class_, {"n": n, "steps": steps, **fields})).encode()
        for event in self._transport.events("POST", "/generate", body, "application/json", stop=_stop):
            parsed = parse_event(event.name, event.data)
            if isinstance(parsed, dict):
                raise problem_error(parsed, parsed.get("status", 500), parsed.get("retry_after"))
            if parsed is not None:
                yield parsed
            if isinstance(parsed, Result):
                return

    def array(self, class_: Optional[Class] = None, n: Optional[int] = None, steps: Optional[int] = None, **fields: Any) -> Any:
        """numpy float32 [N, H, W, C]: the sampler's own numbers, about -1 to 1, neither rounded nor clamped. Needs numpy."""
        import io

        import numpy
        body = json.dumps(self._fields(class_, {"n": n, "steps": steps, **fields})).encode()
        answer = self._transport.request("POST", "/generate", body, "application/json", "application/x-npy", pure=True)
        return numpy.load(io.BytesIO(answer.body), allow_pickle=False)

    def plan(self, class_: Optional[Class] = None, n: Optional[int] = None, steps: Optional[int] = None,
             **fields: Any) -> Dict[str, Any]:
        """What generate() would do: resolved parameters, timesteps, cost in lane-steps, expected wait. Computes nothing."""
        body = json.dumps(self._fields(class_, {"n": n, "steps": steps, **fields})).encode()
        return self._transport.request("POST", "/generate?dry_run=true", body, "application/json", pure=True).object()

    def detach(self, class_: Optional[Class] = None, n: Optional[int] = None, steps: Optional[int] = None, **fields: Any) -> Job:
        """A generation that nobody waits for: a job of the daemon's. Job.result() has its images once it has succeeded."""
        body = json.dumps(self._fields(class_, {"n": n, "steps": steps, **fields})).encode()
        return Job(self, self._transport.request("POST", "/generate", body, "application/json", detached=True).object())

    def replay(self, png: Union[bytes, str, "os.PathLike[str]"]) -> Replay:
        """Makes a picture of ddimd's again from its own text chunk and compares. png: its bytes, or its file's name."""
        data = png if isinstance(png, bytes) else pathlib.Path(png).read_bytes()
        answer = self._transport.request("POST", "/replay", data, "image/png", pure=True).object()
        return Replay(answer["identical"], answer["differs"], answer["then"], answer["now"], answer["parameters"])

    def schedule(self, steps: Optional[int] = None, method: Optional[str] = None, eta: Optional[float] = None,
                 sampler: Optional[str] = None, model: Optional[str] = None) -> Dict[str, Any]:
        """The rows of numbers that a sampling method runs."""
        fields = {k: v for k, v in locals().items() if k != "self" and v is not None}
        return self._json("GET", "/schedule?" + urllib.parse.urlencode(fields))

    # -- training
    @staticmethod
    def _config(config: Config) -> Mapping[str, Any]:
        if isinstance(config, Mapping):
            return config
        loaded: Dict[str, Any] = json.loads(pathlib.Path(config).read_text())
        return loaded

    def train(self, config: Config, name: Optional[str] = None) -> Job:
        """Submits a training run. config: an object as in etc/train, or the name of such a file; dataset.path is relative to the
        daemon's folder of data sets."""
        body = {"type": "train", "name": name or "", "config": self._config(config)}
        if not name and not isinstance(config, Mapping):
            body["name"] = pathlib.Path(config).stem
        return Job(self, self._json("POST", "/jobs", body))

    def estimate(self, config: Config) -> Dict[str, Any]:
        """What a training run would take (parameters, steps, memory, ...), without submitting it."""
        estimate: Dict[str, Any] = self._json("POST", "/jobs?dry_run=true", {"type": "train", "config": self._config(config)})["estimate"]
        return estimate

    def job(self, number: int) -> Job:
        return Job(self, self._json("GET", f"/jobs/{int(number)}"))

    def jobs(self, state: Optional[str] = None, type: Optional[str] = None) -> Iterator[Job]:
        """All jobs, newest first, asked for page by page."""
        query = {k: v for k, v in (("state", state), ("type", type)) if v}
        after = None
        while True:
            page = self._json("GET", "/jobs?" + urllib.parse.urlencode({**query, **({"after": after} if after else {})}))
            for info in page["jobs"]:
                yield Job(self, info)
            after = page["next"]
            if not after:
                return

    # -- models
    def models(self) -> List[Dict[str, Any]]:
        models: List[Dict[str, Any]] = self._json("GET", "/models")["models"]
        return models

    def model(self, name: str) -> Dict[str, Any]:
        """Parameters, classes, image size, where it came from, resident or not."""
        return self._json("GET", f"/models/{self._quote(name)}")

    def load(self, name: str) -> Dict[str, Any]:
        """Makes it resident."""
        return self._json("POST", f"/models/{self._quote(name)}/load")

    def unload(self, name: str) -> Dict[str, Any]:
        return self._json("POST", f"/models/{self._quote(name)}/unload")

    def set_default(self, name: str) -> Dict[str, Any]:
        return self._json("POST", f"/models/{self._quote(name)}/default")

    def rollback(self, name: str) -> Dict[str, Any]:
        """Serves again what had this name before the last publication."""
        return self._json("POST", f"/models/{self._quote(name)}/rollback")

    # -- operating
    def capabilities(self) -> Dict[str, Any]:
        """Limits, models, methods, samplers."""
        return self._json("GET", "/capabilities")

    def version(self) -> Dict[str, Any]:
        return self._json("GET", "/version")

    def ready(self) -> Dict[str, Any]:
        """{"ready": bool, "checks": [...]}; not ready is an answer here, no error."""
        try:
            return self._json("GET", "/readyz?verbose")
        except Busy as e:
            return e.problem
