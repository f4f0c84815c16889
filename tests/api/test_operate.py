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
    parameters = {p["name"]: p["schema"] for p in document["paths"]["/generate"]["get"]["parameters"]}
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


def test_page(daemon):
    page = daemon.get("/", Accept="text/html,application/xhtml+xml,*/*;q=0.8")
    assert page.status == 200 and page.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    text = page.body.decode()
    assert 'lang="en"' in text and "<form" in text and 'name="seed"' in text and "http://" not in text


def test_ready_without_a_model(start):
    d = start("--default-model", "grey")
    assert d.get("/readyz").status == 200
    assert d.post("/models/grey/unload").status == 200
    support.eventually(lambda: d.get("/readyz").status == 503, "no model is resident")
    assert d.get("/readyz").json()["reason"] == "no model is resident"
    assert d.post("/models/grey/load").status == 200
    assert d.get("/readyz").status == 200
