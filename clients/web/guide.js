// guide.js: the interface as the daemon's own document describes it, with a curl line for every route.
import {openapi} from "./api.js";
import {curl} from "./curl.js";
import {copy, fill, h, problemNotice} from "./dom.js";

/** Bodies and parameters worth showing; other routes need none. */
const EXAMPLES = {
  generate: {body: {class: [3], n: 4, steps: 50, seed: 42}, output: "ddimd.png"},
  replay: {body: "@ddimd.png", headers: {"Content-Type": "image/png"}},
  schedule: {query: "steps=10&method=trailing"}, readyz: {query: "verbose"}, generateGet: {query: "class=3&seed=42", output: "three.png"},
  jobSubmit: {body: {type: "train", name: "digits", config: "…"}, note: "config: one of etc/train/*.json; ?dry_run=true only checks."},
  jobMove: {body: {position: 1}}, modelFromJob: {body: {job: 1, checkpoint: "best"}}, jobEvents: {stream: true}, jobSample: {output: "samples.png"},
  jobMetrics: {query: "max_points=500", headers: {Accept: "text/csv"}},
};
const SAMPLE = {name: "digits", id: "1", epoch: "2", file: "main.js"};

function example(method, path, operation) {
  const e = EXAMPLES[operation.operationId] || {}, place = path.replace(/\{(\w+)\}/g, (_, n) => SAMPLE[n] || "1").slice(1);
  const line = curl(method.toUpperCase(), place + (e.query ? `?${e.query}` : ""), e);
  return h("div", {class: "example"}, h("code", {}, line), h("button", {class: "quiet", onclick: () => copy(line, "curl command")}, "Copy"), e.note ? h("p", {class: "muted"}, e.note) : null);
}

function typeText(s) {
  if (s.enum) return s.enum.filter(v => v !== null).join(", ");
  const range = s.minimum !== undefined && s.maximum !== undefined ? ` ${s.minimum} … ${s.maximum}` : "";
  return [].concat(s.type || (s.oneOf ? "index, name or list" : "any")).join(" or ") + range;
}

function fields(parameters) {
  return parameters.length ? h("div", {class: "scroll"}, h("table", {class: "compact"}, h("thead", {}, h("tr", {}, ["Field", "Type", "Default", "Meaning"].map(t => h("th", {}, t)))),
    h("tbody", {}, parameters.map(p => h("tr", {}, h("th", {scope: "row"}, h("code", {}, p.name)), h("td", {}, typeText(p.schema)), h("td", {}, p.schema.default === undefined ? "" : String(p.schema.default)), h("td", {}, p.description || (p.in === "path" ? "in the path" : "")))))))
    : null;
}

function route(method, path, operation) {
  const answers = Object.entries(operation.responses);
  return h("details", {class: "route"}, h("summary", {}, h("span", {class: `method ${method}`}, method.toUpperCase()), h("code", {}, path), h("span", {class: "muted"}, operation.summary)),
    h("div", {class: "inside"}, example(method, path, operation), fields(operation.parameters),
      h("p", {class: "muted"}, "Answers: ", answers.map(([code, a]) => `${code}${Number(code) >= 400 ? ` (${a.description})` : ""}`).join(", "))));
}

export async function create(root) {
  try {
    const document = await openapi(), list = h("div", {class: "routes"});
    const find = h("input", {type: "search", placeholder: "Find a route", "aria-label": "Find a route", oninput: () => {
      for (const r of list.children) r.hidden = !r.querySelector("summary").textContent.toLowerCase().includes(find.value.toLowerCase());
    }});
    fill(list, Object.entries(document.paths).flatMap(([path, methods]) => Object.entries(methods).map(([m, o]) => route(m, path, o))));
    fill(root, h("div", {class: "bar"}, h("h1", {}, "API"), find, h("a", {class: "button quiet", href: "openapi.json"}, "openapi.json")),
         h("p", {class: "muted"}, "JSON in and out, images as PNG, errors as application/problem+json that name the field. Every path is served under /v1 too. The page uses nothing but this."), list);
    return true;
  } catch (error) {
    fill(root, h("h1", {}, "API"), problemNotice(error));
    return false;
  }
}
