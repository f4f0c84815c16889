// main.js: views by the address's hash, keys of the keyboard, the daemon's health, theme, key of this tab.
import {get, key, setKey} from "./api.js";
import {recolour} from "./charts.js";
import {dialog, fill, h, poll, problemNotice, toast} from "./dom.js";
import * as generate from "./generate.js";
import * as guide from "./guide.js";
import * as models from "./models.js";
import * as queue from "./queue.js";
import * as status from "./status.js";
import * as train from "./train.js";

const VIEWS = {generate, queue, train, models, status, api: guide};
const main = document.getElementById("view"), sections = {};
let current = "";

// ---- views

async function open() {
  const [name, parameter] = location.hash.slice(1).split("/");
  if (name === "view") return main.focus();
  const view = VIEWS[name] || generate, id = VIEWS[name] ? name : "generate";
  if (current && current !== id) VIEWS[current].hide?.();
  current = id;
  document.title = id === "generate" ? "ddimd" : `${id[0].toUpperCase()}${id.slice(1)} – ddimd`;
  for (const a of document.querySelectorAll("nav a")) {
    if (a.hash === `#${id}`) a.setAttribute("aria-current", "page");
    else a.removeAttribute("aria-current");
  }
  if (sections[id]?.dataset.failed) { // made anew: what it lacked may be there now
    sections[id].remove();
    delete sections[id];
  }
  for (const [n, s] of Object.entries(sections)) s.hidden = n !== id;
  if (!sections[id]) await create(id, view);
  return current === id && !sections[id].dataset.failed ? view.show?.(parameter) : undefined;
}

async function create(id, view) {
  const section = sections[id] = h("section", {class: `view ${id}`}, h("p", {class: "muted"}, "Loading …"));
  main.append(section);
  try {
    if (!await view.create(section)) section.dataset.failed = "yes";
  } catch (error) {
    section.dataset.failed = "yes";
    fill(section, problemNotice(error, open));
  }
}

// ---- keyboard

const SHORTCUTS = [["Ctrl+Enter", "Generate, or check and start a run"], ["Esc", "Cancel what runs; close a dialog"], ["1 … 6", "Go to a view"], ["R", "Another random seed"], ["N", "The next seed"], ["L", "Lock the seed"],
                   ["← →", "In an enlarged image: the one before, the next"], ["↑ ↓", "In an enlarged image: its states on the way"], ["?", "This list"]];

function help() {
  dialog("Keyboard shortcuts", h("h2", {}, "Keyboard"), h("table", {class: "compact"}, h("tbody", {}, SHORTCUTS.map(([k, what]) => h("tr", {}, h("th", {scope: "row"}, h("kbd", {}, k)), h("td", {}, what))))));
}

addEventListener("keydown", e => {
  if (document.querySelector("dialog[open]")) return;
  const view = VIEWS[current];
  if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) {
    e.preventDefault();
    view.run?.();
  } else if (e.key === "Escape") {
    view.cancel?.();
  } else if (!e.ctrlKey && !e.metaKey && !e.altKey && !e.target.closest("input:not([type=range]):not([type=checkbox]), textarea, select")) {
    const number = Number(e.key);
    if (e.key === "?") help();
    else if (number >= 1 && number <= 6) location.hash = Object.keys(VIEWS)[number - 1];
    else view.keys?.[e.key.toLowerCase()]?.();
  }
});

// ---- health, theme, key

async function health() {
  const dot = document.getElementById("health"), words = dot.querySelector(".words");
  let state = "good", text = "ready";
  try {
    await get("readyz");
  } catch (error) {
    state = error.status ? "warn" : "bad";
    text = error.status ? error.reason || "not ready" : "not reachable";
  }
  if (dot.dataset.state === "bad" && state !== "bad") toast("The daemon answers again.");
  dot.dataset.state = state;
  words.textContent = text;
}

const THEMES = ["auto", "light", "dark"];
function theme(value) {
  document.documentElement.dataset.theme = value;
  document.getElementById("theme").textContent = {auto: "Theme", light: "Light", dark: "Dark"}[value];
  localStorage.setItem("ddimd.theme", value);
  recolour();
}

/** unasked: the daemon refused something; not again and again for one who has closed this. */
let asking = false, declined = false;
function askKey(unasked) {
  if (asking || (unasked && declined)) return;
  asking = true;
  const input = h("input", {type: "password", id: "key-value", autocomplete: "off", spellcheck: "false", value: key()});
  const d = dialog("Key", h("h2", {}, "Key"), h("p", {}, key() ? "The key of this tab does not suffice, or is to be changed." : "This daemon wants a key.", " It stays in this tab and is gone once the tab is closed."),
    h("form", {onsubmit: e => { e.preventDefault(); setKey(input.value.trim()); d.close(); location.reload(); }}, h("div", {class: "row"}, h("label", {htmlFor: "key-value"}, "Key"), input),
      h("div", {class: "actions"}, h("button", {class: "primary"}, "Use it"), h("button", {type: "button", class: "quiet", onclick: () => { setKey(""); d.close(); location.reload(); }}, "Forget it"))));
  d.addEventListener("close", () => { asking = false; declined = true; });
  input.focus();
}

const keyButton = document.getElementById("key");
keyButton.hidden = !key();
keyButton.addEventListener("click", () => askKey(false));
addEventListener("ddimd-key", e => { keyButton.hidden = false; askKey(!e.detail.wanted); });
document.getElementById("help").addEventListener("click", help);
document.getElementById("theme").addEventListener("click", () => theme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % 3]));
theme(THEMES.includes(localStorage.getItem("ddimd.theme")) ? localStorage.getItem("ddimd.theme") : "auto");
addEventListener("hashchange", open);
poll(health, 5000);
open();
