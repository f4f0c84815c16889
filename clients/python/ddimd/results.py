"""What a generation gives: progress, previews, and the result."""
from __future__ import annotations

import base64
import dataclasses
import functools
import json
import os
from typing import Any, Dict, List, Optional, Union

from . import png as _png


class Image:
    """One picture as a PNG file. Shows itself in notebooks."""

    def __init__(self, png: bytes):
        self.png = png

    @property
    def width(self) -> int:
        return _png.size(self.png)[0]

    @property
    def height(self) -> int:
        return _png.size(self.png)[1]

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (RGB)."""
        return _png.size(self.png)[2]

    @property
    def pixels(self) -> bytes:
        """Rows from the top, channels last, one byte each. Needs no library."""
        return _png.decode(self.png).data

    @property
    def array(self) -> Any:
        """numpy uint8 [H, W, C]. Needs numpy."""
        import numpy
        return numpy.frombuffer(self.pixels, numpy.uint8).reshape(self.height, self.width, self.channels)

    def pil(self) -> Any:
        """The image as Pillow's. Needs Pillow."""
        import io

        import PIL.Image
        return PIL.Image.open(io.BytesIO(self.png))

    def save(self, path: Union[str, "os.PathLike[str]"]) -> None:
        with open(path, "wb") as f:
            f.write(self.png)

    def _repr_png_(self) -> bytes:
        return self.png

    def __repr__(self) -> str:
        return f"Image({self.width} x {self.height}, {'grey' if self.channels == 1 else 'RGB'})"


@dataclasses.dataclass(frozen=True)
class Progress:
    """So many of all steps of all images are done."""
    done: int
    total: int

    @property
    def fraction(self) -> float:
        return self.done / self.total if self.total else 0.0


@dataclasses.dataclass(frozen=True)
class Preview:
    """What an image will look like, as far as is known after so many of its steps."""
    image: int
    step: int
    picture: Image


@dataclasses.dataclass(frozen=True)
class Timing:
    """Milliseconds."""
    queue_ms: float
    sample_ms: float
    encode_ms: float

    @property
    def total_ms(self) -> float:
        return self.queue_ms + self.sample_ms + self.encode_ms


@dataclasses.dataclass(frozen=True)
class Replay:
    """Whether a picture could be made again bit for bit, and if not, which of "model", "build", "device" differs."""
    identical: bool
    differs: List[str]
    then: Dict[str, Optional[str]]
    now: Dict[str, Optional[str]]
    parameters: Dict[str, Any]

    def __bool__(self) -> bool:
        return self.identical


class Result:
    """A finished generation. Shows its grid in notebooks.

    `png`: one picture of all images, which says in its text chunk how to make it again. `images`: each alone, class by
    class (with result_only=False: the results of the first image, then of the second, ...). `classes`: the class of each.
    `parameters`: all fields as the daemon resolved them, `seed` and `model` among them.
    """

    def __init__(self, answer: Dict[str, Any]):
        self.seed: int = answer["seed"]
        self.model: str = answer["model"]
        self.classes: List[str] = answer["classes"]
        self.parameters: Dict[str, Any] = answer["parameters"]
        self.results_per_image: int = answer.get("results_per_image", 1)
        timing = answer.get("timing", {})
        self.timing = Timing(*(float(timing.get(k, 0.0)) for k in ("queue_ms", "sample_ms", "encode_ms")))
        self.png: bytes = base64.b64decode(answer["png"])
        self._images: List[str] = answer["images"]

    @functools.cached_property
    def images(self) -> List[Image]:
        return [Image(base64.b64decode(text)) for text in self._images]

    @property
    def grid(self) -> Image:
        return Image(self.png)

    @functools.cached_property
    def array(self) -> Any:
        """numpy uint8 [N, H, W, C], as shown. Needs numpy. The sampler's own numbers come from Client.array()."""
        import numpy
        return numpy.stack([image.array for image in self.images])

    def save(self, path: Union[str, "os.PathLike[str]"]) -> None:
        """Writes the grid."""
        self.grid.save(path)

    def _repr_png_(self) -> bytes:
        return self.png

    def __repr__(self) -> str:
        return f"Result({len(self._images)} images, model={self.model!r}, seed={self.seed}, {self.timing.total_ms:.0f} ms)"


def parse_event(name: str, data: str) -> Union[Progress, Preview, Result, Dict[str, Any], None]:
    """An event of a generation; a dict is the problem that ended it, None an event that this version does not know."""
    answer = json.loads(data)
    if name == "progress":
        return Progress(answer["done"], answer["total"])
    if name == "preview":
        return Preview(answer["image"], answer["step"], Image(base64.b64decode(answer["png"])))
    if name == "result":
        return Result(answer)
    return answer if name == "error" else None
