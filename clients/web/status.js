// status.js: whether the daemon can serve, why not, and what it has done since its start.
import {capabilities, get, metrics} from "./api.js";
import {bytes, count, duration, fact, fill, h, poll, problemNotice} from "./dom.js";

let parts, stop = () => {};
const title = name => name.replaceAll("_", " ");

async function ready() {
  try {
    return await get("readyz?verbose");
  } catch (error) {
    if (error.checks) return error; // 503 has the same document
    throw error;
  }
}

function requests(all) {
  const rows = all.filter(s => s.name === "ddimd_http_requests_total"), routes = [...new Set(rows.map(s => s.labels.route))], codes = [...new Set(rows.map(s => s.labels.code))].sort();
  const at = (route, code) => rows.find(s => s.labels.route === route && s.labels.code === code)?.value;
  return h("div", {class: "scroll"}, h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, "Route"), codes.map(c => h("th", {class: "number"}, c)))),
    h("tbody", {}, routes.map(r => h("tr", {}, h("th", {scope: "row"}, h("code", {}, r || "(none)")), codes.map(c => h("td", {class: "number"}, at(r, c) === undefined ? "" : count(at(r, c)))))))));
}

const cards = (r, version, {all, value}, c) => {
  const totals = name => all.filter(s => s.name === name).map(s => fact(title(Object.values(s.labels)[0]), count(s.value)));
  const memory = c.models.reduce((sum, m) => sum + (m.device_bytes || 0), 0);
  return [
    h("section", {class: "panel"}, h("h2", {}, "Readiness"), h("ul", {class: "checks"}, r.checks.map(k => h("li", {class: k.ok ? "good" : "bad"}, h("strong", {}, k.name), ` ${k.detail}`)))),
    h("section", {class: "panel"}, h("h2", {}, "Daemon"), h("dl", {class: "facts"}, fact("Version", version.version), fact("Device", version.device), fact("Running for", duration(value("ddimd_uptime_seconds"))), fact("Images made", count(value("ddimd_images_total"))),
      fact("Models resident", count(c.models.filter(m => m.resident).length)), fact("Memory of models", bytes(memory)), fact("Memory of results", bytes(value("ddimd_queue_bytes"))), fact("Answers sent", bytes(value("ddimd_http_answer_bytes_total"))))),
    h("section", {class: "panel"}, h("h2", {}, "Generations"), h("dl", {class: "facts"}, totals("ddimd_generations_total")), h("h2", {}, "Refused"), h("dl", {class: "facts"}, totals("ddimd_refusals_total"))),
    h("section", {class: "panel"}, h("h2", {}, "Limits of a request"), h("dl", {class: "facts"}, Object.entries(c.limits).map(([k, v]) => fact(title(k.replace("_bytes", "")), k.endsWith("_bytes") ? bytes(v) : count(v)))))];
};

async function turn() {
  try {
    const [r, version, m, c] = await Promise.all([ready(), get("version"), metrics(), capabilities()]);
    fill(parts.badge, h("span", {class: r.ready ? "badge succeeded" : "badge failed"}, r.ready ? "ready" : "not ready"), r.reason && h("span", {class: "muted"}, r.reason));
    fill(parts.cards, cards(r, version, m, c));
    fill(parts.requests, h("h2", {}, "Requests by route and status"), requests(m.all));
    parts.text.textContent = m.text;
  } catch (error) {
    fill(parts.badge, problemNotice(error, turn));
  }
}

export async function create(root) {
  parts = {badge: h("span", {class: "bar"}), cards: h("div", {class: "cards"}), requests: h("section", {class: "panel"}), text: h("pre", {tabindex: "0"})};
  fill(root, h("div", {class: "bar"}, h("h1", {}, "Status"), parts.badge), parts.cards, parts.requests, h("details", {class: "panel"}, h("summary", {}, "All metrics"), parts.text));
  return true;
}

export async function show() {
  hide();
  stop = poll(turn, 3000);
}
export function hide() {
  stop();
  stop = () => {};
}
