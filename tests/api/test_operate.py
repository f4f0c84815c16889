"""Health, version, capabilities, metrics, the OpenAPI document, the page."""
import re

import support
from support import eventually, parallel


def test_health(daemon):
    assert daemon.get("/healthz").json() == {"status": "ok"}
    ready = daemon.get("/readyz")
    assert ready.status == 200 and ready.json() == {"ready": True}
    verbose = daemon.get("/v1/readyz?verbose").json()
    assert verbose["ready"] and all(c["ok"] for c in verbose["checks"])
    assert {c["name"] for c in verbose["checks"]} == {"model", "draining", "device", "step", "worker"}
    assert daemon.get("/readyz?verbos").problem()["status"] == 400


def test_version(daemon):
    version = daemon.get("/version").json()
    assert version["name"] == "ddimd" and re.fullmatch(r"\d+\.\d+\.\d+", version["version"]) and version["device"]


def test_capabilities(daemon):
    c = daemon.get("/capabilities").json()
    assert c["methods"] == ["linear", "quadratic", "trailing"] and c["samplers"] == ["ddim", "ddpm", "dpmpp_2m"]
    assert c["limits"]["images"] == 128 and c["limits"]["body_bytes"] == 256 * 1024
    colour = next(m for m in c["models"] if m["name"] == "colour")
    assert colour["step_times"] and all(t["rows"] >= 1 and t["seconds"] > 0 for t in colour["step_times"])


SAMPLE = re.compile(r'[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? (\+Inf|[-+0-9.e]+)')


def test_metrics_form(daemon):
    answer = daemon.get("/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    described = set()
    for line in answer.body.decode().splitlines():
        if line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            assert name not in described and kind in ("counter", "gauge", "histogram", "summary")
            described.add(name)
        elif not line.startswith("# HELP "):
            assert SAMPLE.fullmatch(line), line
            base = re.sub(r"_(bucket|sum|count)$", "", line.split("{")[0].split(" ")[0])
            assert base in described or line.split("{")[0].split(" ")[0] in described, line


def test_metrics_count(daemon):
    names = ['ddimd_http_requests_total{route="/generate",code="200"}', 'ddimd_http_requests_total{route="/generate",code="400"}',
             "ddimd_images_total", "ddimd_lane_steps_total", 'ddimd_generations_total{outcome="completed"}',
             "ddimd_queue_wait_seconds_count", 'ddimd_http_requests_total{route="",code="404"}']
    before = [daemon.metric(n) for n in names]
    parallel([lambda: daemon.generate(**{"class": 1, "n": 3, "steps": 4}) for _ in range(4)])
    daemon.generate("text/event-stream", **{"class": 1, "n": 3, "steps": 4})
    daemon.get("/generate?n=0")
    daemon.get("/no-such-path")
    expected = [5, 1, 15, 60, 5, 5, 1]
    eventually(lambda: [daemon.metric(n) - b for n, b in zip(names, before)] == expected, "counts differ")


def references(value):
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "$ref":
                yield item
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_openapi(daemon):
    document = daemon.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1.")
    for reference in references(document):
        target = document
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]
    operations = [o["operationId"] for path in document["paths"].values() for o in path.values()]
    assert len(operations) == len(set(operations))
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for name in re.findall(r"\{(\w+)\}", path):
                assert any(p["name"] == name and p["in"] == "path" and p["required"] for p in operation["parameters"])
            assert any(code.startswith("2") and answer["description"] for code, answer in operation["responses"].items())


def test_openapi_paths_answer(daemon):
    """Every documented operation exists, and no other method does."""
    for path, methods in daemon.get("/openapi.json").json()["paths"].items():
        allow = daemon.request("OPTIONS", re.sub(r"\{\w+\}", "1", path)).headers["Allow"].split(", ")
        assert {m.lower() for m in allow} - {"head", "options"} == set(methods)


def test_openapi_fields(daemon):
    """The document's ranges and defaults are the ones that are enforced."""
    document = daemon.get("/openapi.json").json()
    properties = document["components"]["schemas"]["Generate"]["properties"]
    parameters = {p["name"]: p["schema"] for p in document["paths"]["/generate"]["get"]["parameters"] if p["in"] == "query"}
    assert set(properties) == set(parameters)
    resolved = daemon.get("/generate?dry_run=true").json()["parameters"]
    for name, schema in properties.items():
        if "default" in schema and name in resolved and name != "class":
            assert resolved[name] == schema["default"], name
        for bound, past in (("minimum", -1), ("maximum", 1)):
            if bound in schema:
                answer = daemon.post("/generate", {name: schema[bound] + past})
                assert answer.problem()["field"] == name
        if "enum" in schema:
            assert daemon.post("/generate", {name: "nothing"}).problem()["allowed"] == schema["enum"]
            for value in schema["enum"]:
                assert daemon.post("/generate?dry_run=true", {name: value, "class": 0}).status == 200


def test_openapi_describes_training(daemon):
    """The schema of a configuration has every field, its default and its help: forms are made of it."""
    schemas = daemon.get("/openapi.json").json()["components"]["schemas"]
    config = schemas["TrainConfig"]["properties"]
    kinds = [r["$ref"].removeprefix("#/components/schemas/") for r in schemas["Job"]["properties"]["config"]["anyOf"]]
    assert kinds == ["TrainConfig", "GenerateConfig", "EvaluateConfig"] and schemas["GenerateConfig"]["properties"]["steps"]["default"] == 50
    assert schemas["TrainConfig"]["required"] == ["model", "dataset"] and config["epochs"]["default"] == 100
    assert config["model"]["properties"]["channel_mult"]["default"] == [1, 2, 2, 2] and config["diffusion"]["properties"]["T"]["default"] == 1000
    assert "default" not in config["dataset"]["properties"]["mode"] and config["optimizer"]["properties"]["lr"]["exclusiveMinimum"] == 0
    assert all(f["description"] for group in config.values() for f in group.get("properties", {"": group}).values())


def test_queue(daemon):
    assert daemon.get("/queue").json() | {"steps_done": 0, "last_step_lanes": 0} == {
        "lanes": 0, "requests_total": 0, "images": 0, "row_steps": 0, "steps_done": 0, "last_step_lanes": 0, "requests": []}
    streams = [daemon.connect() for _ in range(2)]
    for i, (c, steps) in enumerate(zip(streams, (1000, 900))):
        c.request("POST", f"/generate?class=1&n=2&steps={steps}&seed=1", headers={"Accept": "text/event-stream", "X-Request-Id": f"queue-{i}"})
        c.getresponse()
    eventually(lambda: len(daemon.get("/queue").json()["requests"]) == 2, "not two requests")
    eventually(lambda: all(r["state"] == "running" for r in daemon.get("/queue").json()["requests"]), "they do not run")
    queue = daemon.get("/queue").json()
    first, second = queue["requests"]
    assert [r["id"] for r in (first, second)] == ["queue-0", "queue-1"]  # oldest first
    assert first["model"] == "colour" and first["images"] == 2 and first["steps"] == 1000 and first["total_lane_steps"] == 2000
    assert first["priority"] == "normal" and first["sampler"] == "ddim" and first["guidance"] == 1 and first["images_ahead"] == 0
    assert 0 < second["running_ms"] <= first["running_ms"] and first["queued_ms"] >= 0 and first["expected_ms"] > 0
    assert queue["lanes"] == queue["images"] == 4 and queue["requests_total"] == 2
    eventually(lambda: daemon.get("/queue").json()["requests"][0]["done_lane_steps"] > first["done_lane_steps"], "no progress")
    for c in streams:
        c.close()
    eventually(lambda: daemon.get("/queue").json()["requests"] == [], "cancelled requests are listed")


def test_page(daemon):
    page = daemon.get("/", Accept="text/html,application/xhtml+xml,*/*;q=0.8")
    assert page.status == 200 and page.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"] and "unsafe" not in page.headers["Content-Security-Policy"]
    text = page.body.decode()
    assert 'lang="en"' in text and "http://" not in text and "https://" not in text
    names = re.findall(r'"(web/[\w.]+)"', text)
    assert len(names) == 3
    for name in names:
        file = daemon.get(f"/{name}")
        assert file.status == 200 and file.body and "no-cache" in file.headers["Cache-Control"]
        known = daemon.get(f"/{name}", If_None_Match=file.headers["ETag"])
        assert known.status == 304 and not known.body and known.headers["ETag"] == file.headers["ETag"]
    assert set(daemon.get("/web/presets.json").json()) == {"cifar10", "cifar10-small", "digits", "folder"}
    assert daemon.get("/web/no-such-file.js").problem()["status"] == 404
    assert daemon.get("/web/index.html").status == 404  # it is at / only, with its policy


def test_ready_without_a_model(start):
    d = start("--default-model", "grey")
    assert d.get("/readyz").status == 200
    assert d.post("/models/grey/unload").status == 200
    support.eventually(lambda: d.get("/readyz").status == 503, "no model is resident")
    assert d.get("/readyz").json()["reason"] == "no model is resident"
    assert d.post("/models/grey/load").status == 200
    assert d.get("/readyz").status == 200
