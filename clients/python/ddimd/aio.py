"""The same client for asyncio.

Each request waits in a thread of its own and hands over what arrives; so both clients have one transport, with one behaviour.
A task that is cancelled, or a loop that is left, closes its connection, which gives the generation up.
"""
from __future__ import annotations

import asyncio
import threading
from typing import Any, AsyncIterator, Callable, Dict, Iterator, List, Optional, TypeVar, Union

from .client import Class, Client, Config
from .errors import ConnectionLost, JobFailed
from .jobs import Job, JobEvent
from .results import Image, Preview, Progress, Replay, Result
from .transport import Stop

T = TypeVar("T")


async def _iterate(begin: Callable[[Stop], Iterator[T]]) -> AsyncIterator[T]:
    """What the iterator that begin() makes gives, run in a thread."""
    loop, queue, stop = asyncio.get_running_loop(), asyncio.Queue(), Stop()  # type: Any, Any, Stop

    def put(kind: str, value: Any) -> None:
        try:
            loop.call_soon_threadsafe(queue.put_nowait, (kind, value))
        except RuntimeError:  # the loop is closed: nobody waits
            pass

    def run() -> None:
        try:
            for item in begin(stop):
                if stop.set:
                    return
                put("item", item)
            put("end", None)
        except BaseException as e:
            put("error", e)

    threading.Thread(target=run, name="ddimd", daemon=True).start()
    try:
        while True:
            kind, value = await queue.get()
            if kind == "item":
                yield value
            elif kind == "error":
                raise value
            else:
                return
    finally:
        stop.stop()


async def _call(function: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(None, lambda: function(*arguments, **keywords))


class AsyncJob:
    """As Job; what asks the daemon is awaited."""

    def __init__(self, job: Job):
        self._job = job

    @property
    def id(self) -> int:
        return self._job.id

    @property
    def name(self) -> str:
        return self._job.name

    @property
    def state(self) -> str:
        return self._job.state

    @property
    def ended(self) -> bool:
        return self._job.ended

    @property
    def info(self) -> Dict[str, Any]:
        return self._job.info

    async def refresh(self) -> "AsyncJob":
        await _call(self._job.refresh)
        return self

    async def events(self, after: int = 0) -> AsyncIterator[JobEvent]:
        async for event in _iterate(lambda stop: self._job.events(after, stop)):
            yield event

    def __aiter__(self) -> AsyncIterator[JobEvent]:
        return self.events()

    async def wait(self) -> "AsyncJob":
        async for _ in self.events():
            pass
        if self.state != "succeeded":
            raise JobFailed(self, self.state, (self.info.get("end") or {}).get("message", ""))
        return self

    async def cancel(self) -> "AsyncJob":
        await _call(self._job.cancel)
        return self

    async def resume(self) -> "AsyncJob":
        await _call(self._job.resume)
        return self

    async def delete(self) -> None:
        await _call(self._job.delete)

    async def publish(self, name: str, checkpoint: Union[str, int] = "best", default: bool = False) -> Dict[str, Any]:
        return await _call(self._job.publish, name, checkpoint, default)

    async def metrics(self, max_points: int = 1000) -> Dict[str, Any]:
        return await _call(self._job.metrics, max_points)

    async def log(self) -> str:
        return await _call(self._job.log)

    async def result(self) -> Image:
        return await _call(self._job.result)

    async def sample(self, epoch: Optional[int] = None) -> Image:
        return await _call(self._job.sample, epoch)

    def __repr__(self) -> str:
        return f"Async{self._job!r}"


class AsyncClient:
    """As Client, with the same arguments; `sync` is that client, for what is not here."""

    def __init__(self, url: Optional[str] = None, key: Optional[str] = None, *, ca: Optional[str] = None, retries: int = 5):
        self.sync = Client(url, key, ca=ca, retries=retries)

    async def stream(self, class_: Optional[Class] = None, n: Optional[int] = None, steps: Optional[int] = None,
                     **fields: Any) -> AsyncIterator[Union[Progress, Preview, Result]]:
        """Progress and Preview as they come, the Result as the last; the fields of Client.generate()."""
        async for event in _iterate(lambda stop: self.sync.stream(class_, n, steps, _stop=stop, **fields)):
            yield event

    async def generate(self, class_: Optional[Class] = None, n: Optional[int] = None, steps: Optional[int] = None,
                       **fields: Any) -> Result:
        async for event in self.stream(class_, n, steps, **fields):
            if isinstance(event, Result):
                return event
        raise ConnectionLost(f"{self.sync.url}: the stream of events ended without a result")

    async def array(self, class_: Optional[Class] = None, n: Optional[int] = None, steps: Optional[int] = None,
                    **fields: Any) -> Any:
        return await _call(self.sync.array, class_, n, steps, **fields)

    async def detach(self, class_: Optional[Class] = None, n: Optional[int] = None, steps: Optional[int] = None,
                     **fields: Any) -> AsyncJob:
        return AsyncJob(await _call(self.sync.detach, class_, n, steps, **fields))

    async def replay(self, png: Any) -> Replay:
        return await _call(self.sync.replay, png)

    async def train(self, config: Config, name: Optional[str] = None) -> AsyncJob:
        return AsyncJob(await _call(self.sync.train, config, name))

    async def job(self, number: int) -> AsyncJob:
        return AsyncJob(await _call(self.sync.job, number))

    async def jobs(self, state: Optional[str] = None) -> List[AsyncJob]:
        return [AsyncJob(job) for job in await _call(lambda: list(self.sync.jobs(state)))]

    async def models(self) -> List[Dict[str, Any]]:
        return await _call(self.sync.models)

    async def load(self, name: str) -> Dict[str, Any]:
        return await _call(self.sync.load, name)

    async def unload(self, name: str) -> Dict[str, Any]:
        return await _call(self.sync.unload, name)

    async def set_default(self, name: str) -> Dict[str, Any]:
        return await _call(self.sync.set_default, name)

    async def ready(self) -> Dict[str, Any]:
        return await _call(self.sync.ready)
