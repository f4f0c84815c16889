"""What /generate answers: the forms, their bytes, and the headers around them."""
import base64
import io
import json
import struct
import zipfile

import pytest

from support import Png, parallel, png_of, sse_events

SIDE, PAD = 16, 2


def cell(png, column, row, scale=1):
    step = SIDE + PAD
    return png.crop((PAD + column * step) * scale, (PAD + row * step) * scale, SIDE * scale, SIDE * scale)


def test_png_grid(daemon):
    answer = daemon.generate(**{"class": "3,1", "n": 3, "steps": 4, "seed": 5})
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["X-Seed"] == "5" and answer.headers["X-Model"] == "colour"
    png = Png(answer.body)
    assert (png.width, png.height, png.channels) == (3 * 18 + 2, 2 * 18 + 2, 3)
    recipe = png.recipe()
    assert recipe["class"] == [3, 1] and recipe["seed"] == 5 and recipe["model"] == "colour"
    assert len(recipe["digest"]) == 64 and recipe["build"] and recipe["device"]
    cells = {bytes().join(cell(png, x, y)) for x in range(3) for y in range(2)}
    assert len(cells) == 6  # all different
    assert len({bytes(r) for r in png.rows[:2]}) == 1 and not any(png.rows[0])  # padding


def test_class_by_class(daemon):
    """Images are ordered class by class, and an image's place is its index for the noise."""
    images = daemon.generate("application/json", **{"class": "3,1", "n": 2, "steps": 3, "seed": 9}).json()
    assert images["classes"] == ["class3", "class3", "class1", "class1"]
    first = daemon.generate("application/json", **{"class": "3", "n": 4, "steps": 3, "seed": 9}).json()
    assert images["images"][:2] == first["images"][:2]
    assert images["images"][2] != first["images"][2]
    second = daemon.generate("application/json", **{"class": "1", "n": 4, "steps": 3, "seed": 9}).json()
    assert images["images"][2:] == second["images"][2:]


def test_one_image_has_no_padding(daemon):
    png = Png(daemon.generate(**{"class": 1, "steps": 2}).body)
    assert (png.width, png.height) == (SIDE, SIDE)


def test_json(daemon):
    answer = daemon.generate("application/json", **{"class": "none,2", "n": 2, "steps": 3, "seed": 2**64 - 1})
    document = answer.json()
    assert document["seed"] == 2**64 - 1 and document["model"] == "colour"
    assert document["classes"] == ["none", "none", "class2", "class2"]
    grid = Png(daemon.generate(**{"class": "none,2", "n": 2, "steps": 3, "seed": 2**64 - 1}).body)
    for i, image in enumerate(map(png_of, document["images"])):
        assert (image.width, image.height, image.channels) == (SIDE, SIDE, 3)
        assert image.rows == cell(grid, i % 2, i // 2)
    assert set(document["timing"]) == {"queue_ms", "sample_ms", "encode_ms"}
    assert document["timing"]["sample_ms"] > 0


def test_grey_models(daemon):
    fields = {"model": "grey", "class": "0,1", "steps": 3, "seed": 4}
    alone = [png_of(i) for i in daemon.generate("application/json", **fields).json()["images"]]
    assert all(p.channels == 1 for p in alone)
    grid = Png(daemon.generate(**fields).body)
    assert grid.channels == 3
    for i, image in enumerate(alone):
        assert [bytes(v for v in row for _ in range(3)) for row in image.rows] == cell(grid, 0, i)
    grey = Png(daemon.generate(to_grayscale="true", **fields).body)
    assert grey.channels == 1 and cell(grey, 0, 1) == alone[1].rows
    assert Png(daemon.generate(**{**fields, "class": 0}).body).channels == 3


def test_scale_and_grey(daemon):
    fields = {"class": "0,1", "steps": 3, "seed": 4}
    plain = Png(daemon.generate(**fields).body)
    large = Png(daemon.generate(scale=3, **fields).body)
    assert (large.width, large.height) == (plain.width * 3, plain.height * 3)
    for y in range(large.height):
        row = plain.rows[y // 3]
        assert large.rows[y] == b"".join(row[i:i + 3] * 3 for i in range(0, len(row), 3))
    grey = Png(daemon.generate(to_grayscale="true", **fields).body)
    assert grey.channels == 1
    for y, row in enumerate(plain.rows):
        luma = [(299 * row[i] + 587 * row[i + 1] + 114 * row[i + 2] + 500) // 1000 for i in range(0, len(row), 3)]
        assert list(grey.rows[y]) == luma


def test_zip(daemon):
    fields = {"class": "3,none", "n": 2, "steps": 3, "seed": 6}
    answer = daemon.generate("application/zip", **fields)
    archive = zipfile.ZipFile(io.BytesIO(answer.body))
    assert archive.testzip() is None
    assert archive.namelist() == ["0000-class3.png", "0001-class3.png", "0002-none.png", "0003-none.png"]
    images = daemon.generate("application/json", **fields).json()["images"]
    assert [archive.read(n) for n in archive.namelist()] == [base64.b64decode(i) for i in images]


def npy(body):
    assert body[:8] == b"\x93NUMPY\x01\x00"
    n = struct.unpack("<H", body[8:10])[0]
    header = eval(body[10:10 + n], {"__builtins__": {}}, {"False": False, "True": True})  # as NumPy reads it
    assert (10 + n) % 64 == 0 and body[9 + n:10 + n] == b"\n"
    return header, body[10 + n:]


def test_npy(daemon):
    fields = {"class": "3,1", "n": 2, "steps": 3, "seed": 6}
    header, data = npy(daemon.generate("application/x-npy", **fields).body)
    assert header == {"descr": "<f4", "fortran_order": False, "shape": (4, SIDE, SIDE, 3)}
    values = struct.unpack(f"<{4 * SIDE * SIDE * 3}f", data)
    pixels = b"".join(b"".join(png_of(i).rows) for i in
                      daemon.generate("application/json", **fields).json()["images"])
    wrong = sum(min(255, max(0, int(255 * (v / 2 + 0.5) + 0.5))) != p for v, p in zip(values, pixels))
    assert wrong <= 2  # where f32 and f64 round apart
    assert any(abs(v) > 0.05 for v in values)


def test_npy_as_numpy_reads_it(daemon):
    numpy = pytest.importorskip("numpy")
    body = daemon.generate("application/x-npy", **{"class": 3, "n": 2, "steps": 3, "seed": 6}).body
    array = numpy.load(io.BytesIO(body))
    assert array.shape == (2, SIDE, SIDE, 3) and array.dtype == numpy.float32 and numpy.isfinite(array).all()
    x = array * numpy.float32(0.5) + numpy.float32(0.5)
    pixels = numpy.clip(x * numpy.float32(255) + numpy.float32(0.5), 0, 255).astype(numpy.uint8)
    images = daemon.generate("application/json", **{"class": 3, "n": 2, "steps": 3, "seed": 6}).json()["images"]
    assert pixels.tobytes() == b"".join(b"".join(png_of(i).rows) for i in images)


def test_pillow_reads_them(daemon):
    image = pytest.importorskip("PIL.Image")
    body = daemon.generate(**{"class": "0,1", "n": 2, "steps": 2, "scale": 2}).body
    png, opened = Png(body), image.open(io.BytesIO(body))
    assert opened.tobytes() == b"".join(png.rows) and json.loads(opened.text["ddimd"]) == png.recipe()


def test_trajectory(daemon):
    fields = {"class": "3,1", "steps": 7, "seed": 8}
    png = Png(daemon.generate(result_only="false", interval=3, **fields).body)
    assert (png.width, png.height) == (4 * 18 + 2, 2 * 18 + 2)  # noise, 3, 6, the result
    result = Png(daemon.generate(**fields).body)
    assert cell(png, 3, 0) == cell(result, 0, 0) and cell(png, 3, 1) == cell(result, 0, 1)
    header, _ = npy(daemon.generate("application/x-npy", result_only="false", interval=7, **fields).body)
    assert header["shape"] == (4, SIDE, SIDE, 3)  # noise and result of each
    document = daemon.generate("application/json", result_only="false", interval=3, **fields).json()
    assert len(document["images"]) == 8 and document["results_per_image"] == 4
    names = zipfile.ZipFile(io.BytesIO(daemon.generate("application/zip", result_only="false", interval=7,
                                                       **fields).body)).namelist()
    assert names == ["0000-class3-00.png", "0000-class3-01.png", "0001-class1-00.png", "0001-class1-01.png"]


def test_trajectory_starts_from_noise(daemon):
    """The starting noise depends on seed and index alone."""
    frames = [npy(daemon.generate("application/x-npy", result_only="false", seed=8,
                                  **{"class": c, "steps": s}).body)[1] for c, s in ((3, 7), (1, 2))]
    n = SIDE * SIDE * 3 * 4
    assert frames[0][:n] == frames[1][:n]
    values = struct.unpack(f"<{SIDE * SIDE * 3}f", frames[0][:n])
    assert abs(sum(values) / len(values)) < 0.15 and 0.8 < sum(v * v for v in values) / len(values) < 1.2


def test_events(daemon):
    fields = {"class": "3,1", "steps": 10, "seed": 5}
    answer = daemon.generate("text/event-stream", **fields)
    assert answer.headers["Content-Type"] == "text/event-stream" and answer.headers["X-Seed"] == "5"
    events = sse_events(answer.body)
    assert events[-1][0] == "result" and [n for n, _ in events].count("result") == 1
    result = events[-1][1]
    assert base64.b64decode(result["png"]) == daemon.generate(**fields).body
    assert result["images"] == daemon.generate("application/json", **fields).json()["images"]
    progress = [d["done"] for n, d in events if n == "progress"]
    assert progress == sorted(progress) and progress[-1] <= 20 and len(progress) >= 1
    previews = [d for n, d in events if n == "preview"]
    assert previews and {p["image"] for p in previews} <= {0, 1} and all(1 <= p["step"] < 10 for p in previews)
    assert all(png_of(p["png"]).width == SIDE for p in previews)
    every = sse_events(daemon.generate("text/event-stream", interval=4, **fields).body)
    assert {d["step"] for n, d in every if n == "preview"} <= {4, 8}


def test_events_of_a_failure(daemon):
    """A deadline that cannot be met is refused at once; one that passes under way ends the stream with a problem."""
    answer = daemon.post("/generate?class=0&steps=1000&n=20&timeout_ms=400", Accept="text/event-stream")
    if answer.status == 504:
        assert answer.problem()["type"] == "/problems/timeout"
        return
    name, problem = sse_events(answer.body)[-1]
    assert name == "error" and problem["status"] == 504 and problem["type"] == "/problems/timeout"


def test_accept(daemon):
    for accept, content_type in (("*/*", "image/png"), ("image/*", "image/png"), ("application/*", "application/json"),
                                 ("image/png;q=0.1, application/zip", "application/zip"),
                                 ("text/html, */*;q=0.1", "image/png")):
        answer = daemon.get("/generate?class=1&steps=1", Accept=accept)
        assert (answer.status, answer.headers["Content-Type"]) == (200, content_type)
    assert daemon.get("/generate?class=1&steps=1").headers["Content-Type"] == "image/png"
    problem = daemon.get("/generate?class=1&steps=1", Accept="text/html, image/png;q=0").problem()
    assert problem["status"] == 406 and "image/png" in problem["allowed"]


def test_get_and_head(daemon):
    path = "/generate?class=1&steps=2&seed=3"
    assert daemon.get(path).body == daemon.post(path).body == daemon.get("/v1" + path).body
    head = daemon.request("HEAD", path)
    assert head.status == 200 and head.body == b""
    assert int(head.headers["Content-Length"]) == len(daemon.get(path).body)


def test_etag(daemon):
    path = "/generate?class=1&steps=2&seed=3"
    answer = daemon.get(path)
    etag = answer.headers["ETag"]
    steps = daemon.metric("ddimd_steps_total")
    again = daemon.get(path, If_None_Match=f'"other", {etag}')
    assert again.status == 304 and again.body == b"" and again.headers["ETag"] == etag
    assert again.headers["X-Seed"] == "3"
    assert daemon.post(path, If_None_Match=etag).status == 304
    assert daemon.metric("ddimd_steps_total") == steps
    assert daemon.get(path.replace("steps=2", "steps=3"), If_None_Match=etag).status == 200
    assert daemon.get(path, If_None_Match=etag, Accept="application/zip").status == 200
    assert daemon.get("/generate?class=1&steps=2&sampler=ddim&seed=3", If_None_Match=etag).status == 304
    assert daemon.get("/generate?class=1&steps=2", If_None_Match="*").status == 200  # a random seed
    weak = daemon.get(path, Accept="application/json").headers["ETag"]
    assert weak.startswith("W/") and daemon.get(path, Accept="application/json", If_None_Match=weak).status == 304


def test_server_timing(daemon):
    timing = daemon.get("/generate?class=1&steps=2").headers["Server-Timing"]
    parts = dict(p.strip().split(";dur=") for p in timing.split(","))
    assert list(parts) == ["queue", "sample", "encode"] and all(float(v) >= 0 for v in parts.values())


def test_random_seed_is_told(daemon):
    answer = daemon.get("/generate?class=1&steps=2")
    again = daemon.get(f"/generate?class=1&steps=2&seed={answer.headers['X-Seed']}")
    assert again.body == answer.body
    assert daemon.get("/generate?class=1&steps=2").headers["X-Seed"] != answer.headers["X-Seed"]


def test_timeout(daemon):
    problem = daemon.get("/generate?class=0&n=64&steps=1000&timeout_ms=300").problem()
    assert problem["status"] == 504
    assert daemon.get("/generate?class=1&steps=1&timeout_ms=60000").status == 200


def test_replay(daemon):
    body = daemon.generate(**{"class": "3,1", "n": 2, "steps": 3, "scale": 2, "eta": 0.5}).body
    answer = daemon.post("/replay", body, Content_Type="image/png")
    document = answer.json()
    assert document["identical"] is True and document["differs"] == [] and document["then"] == document["now"]
    assert answer.headers["X-Seed"] == str(Png(body).recipe()["seed"])


def with_text(png, text):
    """The same file with another text chunk."""
    import zlib
    from support import png_chunks
    out = b"\x89PNG\r\n\x1a\n"
    for kind, data in png_chunks(png):
        if kind == b"tEXt":
            if text is None:
                continue
            data = b"ddimd\0" + text.encode()
        out += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return out


def test_replay_says_what_differs(daemon):
    body = daemon.generate(**{"class": 3, "steps": 3}).body
    recipe = Png(body).recipe()
    for change, differs, identical in (({"digest": "0" * 64}, ["model"], True), ({"build": "0.0.1"}, ["build"], True),
                                       ({"device": "abacus"}, ["device"], True), ({"steps": 4}, [], False)):
        changed = with_text(body, json.dumps({**recipe, **change}))
        document = daemon.post("/replay", changed, Content_Type="image/png").json()
        assert (document["differs"], document["identical"]) == (differs, identical)


@pytest.mark.parametrize("text, status", [(None, 400), ("{}", 400), ("[]", 400), ("nonsense", 400),
                                          ('{"seed": 1, "model": "gone"}', 404), ('{"seed": 1, "stepz": 3}', 400),
                                          ('{"seed": 1, "n": 1000000}', 400)])
def test_replay_of_strangers(daemon, text, status):
    body = daemon.generate(**{"class": 3, "steps": 1}).body
    assert daemon.post("/replay", with_text(body, text), Content_Type="image/png").problem()["status"] == status


def test_replay_of_no_png(daemon):
    body = daemon.generate(**{"class": 3, "steps": 1}).body
    for wrong in (b"", b"x", body[:50], body[:8], b"\x89PNG\r\n\x1a\n" + b"\xff" * 100):
        assert daemon.post("/replay", wrong, Content_Type="image/png").problem()["status"] == 400
    assert daemon.post("/replay", body, Content_Type="text/plain").problem()["status"] == 415


def test_schedule(daemon):
    document = daemon.get("/schedule?steps=5&method=trailing&eta=0.5").json()
    assert (document["steps"], document["method"], document["eta"], document["T"]) == (5, "trailing", 0.5, 1000)
    assert [r["t"] for r in document["rows"]] == [999, 799, 599, 399, 199]
    assert set(document["rows"][0]) == {"t", "alpha", "sigma", "a", "b", "c", "s"}
    assert all(abs(r["alpha"]**2 + r["sigma"]**2 - 1) < 1e-6 for r in document["rows"])
    assert document["rows"][-1]["s"] == 0 and document["rows"][0]["s"] > 0
    assert daemon.get("/schedule?class=1").problem()["field"] == "class"
    assert daemon.get("/schedule?steps=1001").problem()["field"] == "steps"


def test_same_bytes_whatever_else_runs(daemon):
    """Every recipe alone, then all of them at once, in two orders."""
    recipes = [{"class": c, "n": n, "steps": s, "method": m, "eta": e, "sampler": p, "guidance": g, "clip": k, "seed": 7 + i,
                "model": model}
               for i, (c, n, s, m, e, p, g, k, model) in enumerate([
                   ("3", 1, 10, "quadratic", 0, "ddim", 1, "false", "colour"),
                   ("0,1,2", 2, 7, "linear", 0.5, "ddim", 1, "true", "colour"),
                   ("none", 3, 12, "trailing", 1, "ddim", 1, "false", "colour"),
                   ("9", 2, 5, "trailing", 0, "dpmpp_2m", 3.5, "false", "colour"),
                   ("all", 1, 4, "quadratic", 0.25, "ddim", 0, "true", "colour"),
                   ("1", 5, 9, "linear", 1, "ddim", 1.5, "true", "colour"),
                   ("2", 1, 1, "quadratic", 0, "ddim", 1, "false", "grey"),
                   ("none,0", 2, 8, "trailing", 0.9, "ddim", 2, "false", "grey"),
                   ("1", 4, 30, "quadratic", 0, "dpmpp_2m", 1, "true", "grey")])]
    alone = [daemon.generate(**r).body for r in recipes]
    assert len(set(alone)) == len(alone)
    for order in (list(range(len(recipes))) * 4, list(reversed(range(len(recipes)))) * 4):
        together = parallel([lambda r=recipes[i]: daemon.generate(**r).body for i in order], workers=36)
        assert all(body == alone[i] for body, i in zip(together, order))
