// generate.js: the view that makes images: form, live result, parameter grid, history, files dropped on the page.
import {capabilities, generate, request, schema} from "./api.js";
import {compare} from "./compare.js";
import {confirmed, copy, dialog, fill, h, notice, plural, pngBlob, problemNotice, significant, toast, when} from "./dom.js";
import {generateCurl} from "./curl.js";
import * as history from "./history.js";
import {recipeOf} from "./png.js";
import {RequestForm} from "./request.js";
import {Tiles, enlarge, progressText, summary, trajectory} from "./result.js";
import {Sweep} from "./sweep.js";

let form, sweep, running, gridMode = false;
const go = h("button", {class: "primary", type: "submit", title: "Ctrl+Enter; Esc cancels"}, "Generate");
const status = h("p", {class: "muted", role: "status"}), bar = h("progress", {class: "wide", max: 1, value: 0, "aria-label": "Progress of the run"});
const stage = h("div", {class: "stage-result"}), past = h("section", {class: "history", "aria-label": "History"});
const modes = h("div", {class: "segments", role: "group", "aria-label": "What to make"});

// ---- running

function setRunning(abort) {
  running = abort;
  go.textContent = abort ? "Cancel" : gridMode ? "Generate the grid" : "Generate";
  go.classList.toggle("stop", Boolean(abort));
  bar.classList.toggle("idle", !abort);
}

export function cancel() {
  running?.abort();
  return Boolean(running);
}

export async function run() {
  if (running) return cancel();
  if (!form?.model) return undefined;
  form.draw();
  const abort = new AbortController();
  setRunning(abort);
  try {
    await (gridMode ? sweep.run(abort.signal) : runImages(abort.signal));
  } catch (error) {
    if (error.name === "AbortError") {
      status.textContent = "Cancelled: its images left the batch at the next step.";
    } else {
      status.textContent = "";
      form.showProblem(error);
      fill(stage, problemNotice(error, error.field ? null : run));
    }
  }
  setRunning(null);
  return undefined;
}

function expectedClasses(body) {
  const classes = body.class ?? form.model.classes.map((_, i) => i);
  return [].concat(classes).flatMap(c => Array(body.n || 1).fill(form.className(c)));
}

async function runImages(signal) {
  const body = form.body(), steps = body.sampler === "ddpm" ? form.model.T : body.steps || form.schema.properties.steps.default;
  const tiles = new Tiles(expectedClasses(body), steps);
  bar.max = 1;
  bar.value = 0;
  status.textContent = progressText(0);
  fill(stage, tiles.element);
  if (matchMedia("(max-width: 60rem)").matches) stage.parentElement.scrollIntoView(); // on a phone the form is above
  const result = await generate(body, plural(tiles.tiles.length, "image"), {
    progress: (done, total) => { bar.max = total; bar.value = done; status.textContent = progressText(done, total); },
    preview: (image, step, png) => tiles.preview(image, step, png),
  }, signal);
  status.textContent = "";
  showResult(result, tiles, body);
  await remember(result);
}

function showResult(result, tiles, body) {
  tiles.finish(result, i => enlarge(result, i));
  fill(stage, summary(result, [
    h("button", {onclick: () => copy(generateCurl({...body, seed: result.seed}), "curl command")}, "Copy as curl"),
    h("button", {onclick: () => { form.set(result.parameters); toast("The form has this result’s settings; its seed is locked."); }}, "Use settings"),
    h("button", {onclick: () => replay(pngBlob(result.png))}, "Replay"),
  ]), tiles.element, result.results_per_image > 1 ? trajectory(result, tiles) : null);
}

// ---- history

let chosen = new Set();

async function remember(result) {
  await history.add({time: new Date().toISOString(), parameters: result.parameters, classes: result.classes, timing: result.timing, png: pngBlob(result.png)});
  await showHistory();
}

function describe(p) {
  const parts = [plural(p.steps, "step"), p.sampler === "ddim" ? `eta ${significant(p.eta)}` : p.sampler];
  if (p.guidance !== 1) parts.push(`guidance ${significant(p.guidance)}`);
  return parts.join(", ");
}

function historyItem(run) {
  const url = URL.createObjectURL(run.png), img = h("img", {src: url, alt: `Result of ${when(run.time)}`, onload: () => URL.revokeObjectURL(url)});
  const mark = h("button", {type: "button", class: "mark", "aria-pressed": String(chosen.has(run.id)), title: "Mark two to compare them", onclick: () => choose(run)}, "Compare");
  return h("li", {}, h("button", {type: "button", class: "thumb", title: `${when(run.time)}: ${describe(run.parameters)}, seed ${run.parameters.seed}`, onclick: () => openPast(run)}, img),
           h("span", {class: "label"}, describe(run.parameters)), mark);
}

function openPast(run) {
  const url = URL.createObjectURL(run.png);
  const d = dialog("Result from the history", h("div", {class: "enlarged"}, h("img", {src: url, alt: "Result from the history"})),
    h("p", {class: "muted"}, `${when(run.time)}: ${run.parameters.model}, ${describe(run.parameters)}, seed ${run.parameters.seed}`),
    h("div", {class: "actions"},
      h("button", {class: "primary", onclick: () => { d.close(); form.set(run.parameters); toast("The form has its settings; the seed is locked."); }}, "Use settings"),
      h("button", {onclick: () => { d.close(); replay(run.png); }}, "Replay"),
      h("a", {class: "button", href: url, download: `ddimd-${run.parameters.seed}.png`}, "Download"),
      h("button", {onclick: () => copy(generateCurl(requestOf(run.parameters)), "curl command")}, "Copy as curl"),
      h("button", {class: "quiet", onclick: async () => { d.close(); chosen.delete(run.id); await history.remove(run.id); showHistory(); }}, "Forget")));
  d.addEventListener("close", () => URL.revokeObjectURL(url));
}

/** What of a recipe is a request's. */
function requestOf(parameters) {
  const {digest, build, device, ...fields} = parameters;
  return fields;
}

async function choose(run) {
  if (chosen.has(run.id)) chosen.delete(run.id);
  else chosen.add(run.id);
  if (chosen.size === 2) {
    const runs = await history.list(), pair = [...chosen].map(id => runs.find(r => r.id === id));
    chosen = new Set();
    if (pair.every(Boolean)) compare(...pair);
  }
  showHistory();
}

async function showHistory() {
  const runs = await history.list();
  fill(past, h("div", {class: "bar"}, h("h2", {}, "History"),
               runs.length ? h("span", {class: "muted"}, chosen.size ? "Mark a second one to compare" : "Kept in this browser") : null,
               runs.length ? h("button", {class: "quiet", onclick: async () => { if (await confirmed(`Forget ${plural(runs.length, "result")} of this browser?`, "Forget them")) { await history.clear(); showHistory(); } }}, "Clear") : null),
       runs.length ? h("ul", {class: "thumbs"}, runs.map(historyItem)) : h("p", {class: "muted"}, "Results will be kept here, in this browser only."));
}

// ---- a PNG of ours

export async function openFile(file) {
  try {
    const recipe = await recipeOf(file);
    form.set(recipe);
    setMode(false);
    const url = URL.createObjectURL(file);
    fill(stage, h("div", {class: "summary"}, h("p", {}, h("strong", {}, file.name || "The file"), `: ${recipe.model}, ${describe(recipe)}, seed `, h("code", {}, recipe.seed)),
                   h("div", {class: "actions"}, h("button", {class: "primary", onclick: () => replay(file)}, "Replay and compare"), h("button", {onclick: run}, "Generate with these settings"))),
         h("div", {class: "dropped"}, h("img", {src: url, alt: "The file that was opened", onload: () => URL.revokeObjectURL(url)})));
    status.textContent = "";
    if (form.model.name !== recipe.model) toast(`This daemon has no model “${recipe.model}”; the form keeps ${form.model.name}.`, {bad: true});
  } catch (error) {
    toast(error.message, {bad: true});
  }
}

/** Generates a file again and says what came of it. */
async function replay(file) {
  status.textContent = "Generating it again …";
  try {
    const r = JSON.parse(await (await request("POST", "replay", {body: new Blob([file], {type: "image/png"})})).text());
    status.textContent = "";
    const what = {model: "the model’s weights", build: "the program’s version", device: "the kind of device"};
    dialog("Replay", h("h2", {}, r.identical ? "Identical, byte for byte" : "Not identical"),
           h("p", {}, r.identical ? "The daemon made the same file again from the text that it carries."
                    : r.differs.length ? `What differs from then: ${r.differs.map(d => what[d] || d).join(", ")}.`
                                       : "Model, version and device are the same; the file may have been changed since."),
           r.identical ? null : h("table", {class: "compact"}, h("tbody", {}, ["digest", "build", "device"].map(k => h("tr", {}, h("th", {scope: "row"}, k), h("td", {}, String(r.then[k]).slice(0, 24)), h("td", {}, String(r.now[k]).slice(0, 24)))))));
  } catch (error) {
    status.textContent = "";
    toast(error.detail || error.message, {bad: true});
  }
}

function acceptFiles() {
  addEventListener("dragover", e => { e.preventDefault(); document.body.classList.add("dragging"); });
  addEventListener("dragleave", e => { if (!e.relatedTarget) document.body.classList.remove("dragging"); });
  addEventListener("drop", e => {
    e.preventDefault();
    document.body.classList.remove("dragging");
    const file = e.dataTransfer.files[0];
    if (file) { location.hash = "#generate"; openFile(file); }
  });
}

// ---- the view

function setMode(grid) {
  gridMode = grid;
  fill(modes, [["Images", false], ["Parameter grid", true]].map(([text, value]) =>
    h("button", {type: "button", "aria-pressed": String(value === gridMode), onclick: () => setMode(value)}, text)));
  sweep.element.hidden = !grid;
  stage.hidden = bar.hidden = grid;
  setRunning(running);
}

function welcome() {
  const file = h("input", {type: "file", accept: "image/png", hidden: true, onchange: () => file.files[0] && openFile(file.files[0])});
  fill(stage, notice("Nothing generated yet", "Choose classes and press Ctrl+Enter. A PNG that ddimd made brings its settings along: drop it on this page, or open it.",
                     h("button", {onclick: () => file.click()}, "Open a PNG"), file));
}

export async function create(root) {
  const all = await capabilities();
  const usable = all.models.filter(m => !m.error);
  if (!usable.length) {
    fill(root, notice("No model to generate with", "Put a model file (safetensors) into the daemon’s models folder, or train one.", h("a", {class: "button", href: "#train/new"}, "Train a model")));
    return false;
  }
  form = new RequestForm(await schema("Generate"), all.models, all.limits, run);
  form.element.append(h("div", {class: "send"}, go, form.cost));
  sweep = new Sweep(form);
  fill(root, h("div", {class: "columns"}, form.element, h("div", {class: "stage"}, h("div", {class: "bar"}, h("h1", {}, "Generate"), modes), bar, status, stage, sweep.element, past)));
  setMode(false);
  welcome();
  acceptFiles();
  await showHistory();
  return true;
}

/** Models may have changed meanwhile. */
export async function show(parameter) {
  if (!form) return;
  form.setModels((await capabilities()).models);
  if (parameter && form.models.some(m => m.name === parameter)) {
    form.inputs.model.value = parameter;
    form.showClasses();
  }
}

export const keys = {l: () => form?.lock(!form.locked), r: () => form?.newSeed(), n: () => form?.nextSeed()};
