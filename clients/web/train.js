// train.js: the list of jobs, and the form of a new one; job.js shows one.
import {get, post, schema} from "./api.js";
import {curl} from "./curl.js";
import {Rows, badge, bytes, copy, count, duration, fact, fill, h, notice, option, plural, poll, problemNotice, si, significant, toast, when} from "./dom.js";
import {SchemaForm} from "./form.js";
import {openJob} from "./job.js";

let root, stop = () => {}, sendForm = null;
const presets = () => get("web/presets.json");

// ---- the list

function jobCells(job, kept) {
  const p = job.progress;
  kept.name = kept.name || h("a", {href: `#train/${job.id}`}, job.name || "(no name)");
  kept.bar = kept.bar || h("progress", {max: 1, "aria-label": `Progress of job ${job.id}`});
  kept.bar.value = p.fraction || 0;
  if (kept.state !== `${job.state} ${job.cancel_requested}`) kept.badge = badge(job);
  kept.state = `${job.state} ${job.cancel_requested}`;
  return [String(job.id), kept.name, kept.badge, kept.bar, p.total_steps ? `${count(p.step)} / ${count(p.total_steps)}` : "–", significant(job.metrics?.loss),
          job.state === "queued" ? `place ${job.queue_position}` : job.eta_seconds !== null ? `${duration(job.eta_seconds)} left` : when(job.ended || job.created)];
}

async function showList() {
  const rows = new Rows(["Job", "Name", "State", "Progress", "Steps#", "Loss#", "When"], jobCells), note = h("div");
  fill(root, h("div", {class: "bar"}, h("h1", {}, "Train"), h("a", {class: "button primary", href: "#train/new"}, "New run")), rows.element, note);
  stop = poll(async () => {
    try {
      const {jobs} = await get("jobs?limit=100");
      rows.show(jobs);
      fill(note, jobs.length ? null : notice("No runs yet", "A run trains a model on a data set of the daemon’s, beside the requests that it serves.", h("a", {class: "button", href: "#train/new"}, "Set up the first one")));
    } catch (error) {
      fill(note, error.type === "/problems/no-jobs"
        ? notice("This daemon runs no jobs", "Start it with --state FOLDER (where jobs are kept) and --datasets FOLDER (where their images lie), then come back.")
        : problemNotice(error, showList));
    }
  }, 2000);
}

// ---- a new one

function estimateView(r) {
  const e = r.estimate;
  return h("section", {class: "estimate", "aria-label": "What the run would take"}, h("h3", {}, "It can run"),
    h("dl", {class: "facts"}, fact("Parameters", count(e.parameters)), fact("Steps", `${count(e.steps)} (${count(e.steps_per_epoch)} an epoch)`), e.seconds ? fact("Time", `about ${duration(e.seconds)} (from ${e.seconds_as})`) : null, fact("Work of a step", si(e.flop_per_step, "FLOP")),
      fact("Memory", bytes(e.memory_bytes)), fact("A checkpoint", bytes(e.checkpoint_bytes))));
}

async function showNew() {
  const all = await presets(), names = Object.keys(all), s = await schema("TrainConfig");
  const choice = h("select", {id: "preset", value: names.includes("digits") ? "digits" : names[0], onchange: load}, names.map(n => option(n)), option("", "empty"));
  const name = h("input", {id: "job-name", maxlength: "100", placeholder: "for people", autocomplete: "off"});
  const place = h("div"), outcome = h("div", {role: "status"}), start = h("button", {class: "primary", type: "button", disabled: true, onclick: submit, title: "Ctrl+Enter"}, "Start training");
  const check = h("button", {type: "submit"}, "Check");
  let form, config, checked = false;
  const job = () => ({type: "train", ...(name.value && {name: name.value}), config});

  function load() {
    config = structuredClone(all[choice.value] || {model: {}, dataset: {}});
    form = new SchemaForm(s, config, {onchange: stale, first: ["dataset"], omit: ["resume"]});
    fill(place, form.element);
    stale();
  }
  function stale() {
    checked = false;
    start.disabled = true;
    fill(outcome, h("p", {class: "muted"}, "Check it first: the daemon says whether it can run and what it takes."));
  }
  function fail(error) {
    const placed = form.showProblem(error);
    fill(outcome, h("div", {class: "notice bad"}, h("h3", {}, error.title || "It cannot run"), h("p", {}, error.field ? h("code", {}, error.field) : null, " ", error.detail || error.message), placed ? null : h("p", {class: "muted"}, "The form has no field of that name.")));
  }
  async function dryRun() {
    try {
      const r = await post("jobs?dry_run=true", job());
      fill(outcome, estimateView(r));
      checked = true;
      start.disabled = false;
    } catch (error) { fail(error); }
  }
  const idempotency = crypto.randomUUID ? crypto.randomUUID() : `web-${Date.now()}-${Math.random()}`;
  async function submit() {
    start.disabled = true;
    try {
      const created = await post("jobs", job(), {headers: {"Idempotency-Key": idempotency + JSON.stringify(job()).length}});
      toast(`Job ${created.id} is queued.`);
      location.hash = `#train/${created.id}`;
    } catch (error) { fail(error); }
  }
  sendForm = () => checked ? submit() : dryRun();
  fill(root, h("div", {class: "bar"}, h("h1", {}, "New run"), h("a", {class: "button quiet", href: "#train"}, "All runs")),
    h("form", {class: "train-form", novalidate: true, onsubmit: e => { e.preventDefault(); dryRun(); }},
      h("div", {class: "pair"}, h("div", {class: "row"}, h("label", {htmlFor: "preset"}, "Begin with"), choice), h("div", {class: "row"}, h("label", {htmlFor: "job-name"}, "Name"), name)),
      place, h("div", {class: "send panel"}, outcome, h("div", {class: "actions"}, check, start,
        h("button", {class: "quiet", type: "button", onclick: () => copy(curl("POST", "jobs", {body: job()}), "curl command")}, "Copy as curl")))));
  load();
}

// ---- the view

export async function create(element) {
  root = element;
  return true;
}

export async function show(parameter) {
  hide();
  try {
    if (parameter === "new") await showNew();
    else if (parameter) stop = await openJob(root, Number(parameter));
    else await showList();
  } catch (error) {
    fill(root, problemNotice(error, () => show(parameter)));
  }
}

export function hide() {
  stop();
  stop = () => {};
  sendForm = null;
}

export const run = () => sendForm?.();
