"""Client of ddimd, a daemon that serves and trains diffusion models.

    from ddimd import Client

    client = Client("http://localhost:8080")
    result = client.generate(class_=3, n=16, steps=50)
    open("threes.png", "wb").write(result.png)

Nothing but the standard library is needed; numpy (`result.array`) and Pillow (`image.pil()`) are used where they are
there. See Client, AsyncClient, Result and Job.
"""
from .aio import AsyncClient, AsyncJob
from .client import Client
from .errors import (Busy, ConnectionLost, DdimdError, Forbidden, JobFailed, NotFound, ProblemError, Refused, ServerFailed,
                     TimeUp, WrongState)
from .jobs import Job, JobEvent
from .results import Image, Preview, Progress, Replay, Result, Timing

__version__ = "0.1.0"
__all__ = ["AsyncClient", "AsyncJob", "Busy", "Client", "ConnectionLost", "DdimdError", "Forbidden", "Image", "Job", "JobEvent",
           "JobFailed", "NotFound", "Preview", "ProblemError", "Progress", "Refused", "Replay", "Result", "ServerFailed", "TimeUp",
           "Timing", "WrongState"]
