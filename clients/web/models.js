// models.js: what is resident, where it came from, and what can be done with it.
import {get, post} from "./api.js";
import {bytes, confirmed, count, fact, fill, h, notice, problemNotice, significant, toast} from "./dom.js";

let list;

const row = (name, value) => value === undefined || value === null || value === "" ? null : fact(name, value);

function action(m, label, verb, options = {}) {
  const button = h("button", {class: options.class, onclick: async () => {
    if (options.question && !await confirmed(options.question, label)) return;
    button.disabled = true;
    try {
      await post(`models/${m.name}/${verb}`);
      toast(options.done);
    } catch (error) {
      toast(error.detail || error.message, {bad: true});
    }
    show();
  }}, label);
  return button;
}

function origin(training) {
  if (!training) return null;
  const simple = Object.entries(training).filter(([, v]) => v === null || typeof v !== "object");
  return h("details", {}, h("summary", {}, "Model card"), h("dl", {class: "facts"}, simple.map(([k, v]) => row(k.replaceAll("_", " "), typeof v === "number" ? (Number.isInteger(v) ? count(v) : significant(v)) : String(v)))),
           h("details", {}, h("summary", {}, "All of it"), h("pre", {}, JSON.stringify(training, null, 1))));
}

function card(m) {
  const size = m.image_size ? `${m.image_size[1]} × ${m.image_size[0]}, ${m.mode === "L" ? "grey" : "colour"}` : null;
  return h("article", {class: "panel model"},
    h("div", {class: "bar"}, h("h2", {}, m.name), m.default ? h("span", {class: "badge succeeded"}, "default") : null, h("span", {class: m.resident ? "badge running" : "badge"}, m.resident ? "resident" : "on disk")),
    m.error ? h("p", {class: "error"}, m.error) : null,
    h("dl", {class: "facts"}, row("Images", size), row("Classes", m.classes ? count(m.classes.length) : null), row("Parameters", m.parameters && count(m.parameters)), row("File", m.bytes && bytes(m.bytes)),
      row("On the device", m.device_bytes && bytes(m.device_bytes)), row("Precision", m.precision), row("Rows a step", m.max_rows), row("Lanes", m.lanes && count(m.lanes)), row("Diffusion steps", m.T && count(m.T)),
      row("SHA-256", m.digest && h("code", {title: m.digest}, m.digest.slice(0, 16)))),
    m.classes ? h("p", {class: "muted names"}, m.classes.slice(0, 40).join(", ") + (m.classes.length > 40 ? " …" : "")) : null, origin(m.training),
    h("div", {class: "actions"},
      m.error ? null : h("a", {class: "button", href: `#generate/${m.name}`}, "Generate"),
      m.resident ? action(m, "Unload", "unload", {done: `${m.name} was let go of; requests under way finish on it.`}) : m.error ? null : action(m, "Load", "load", {done: `${m.name} is resident.`}),
      m.default || m.error ? null : action(m, "Make default", "default", {done: `${m.name} is the default now.`}),
      action(m, "Roll back", "rollback", {class: "quiet", question: `Put back what was served as ${m.name} before its last publication?`, done: `${m.name} is what it was before.`})));
}

export async function create(root) {
  list = h("div", {class: "cards"});
  fill(root, h("div", {class: "bar"}, h("h1", {}, "Models"), h("button", {class: "quiet", onclick: show}, "Refresh")), list);
  return true;
}

export async function show() {
  try {
    const {models} = await get("models");
    fill(list, models.length ? models.map(card) : notice("No models", "Put a safetensors file into the daemon’s models folder, or publish one from a training run.", h("a", {class: "button", href: "#train"}, "Train")));
  } catch (error) {
    fill(list, problemNotice(error, show));
  }
}
