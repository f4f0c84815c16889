// job.js: one training job: progress, curves as they grow, samples by epoch, log, and what can be done with it.
import {follow, get, post, remove, request} from "./api.js";
import {Figure} from "./charts.js";
import {badge, confirmed, count, debounce, dialog, duration, fact, fill, h, notice, option, problemNotice, significant, toast, when} from "./dom.js";

const MAX_POINTS = 800;

class JobView {
  constructor(root, id) {
    Object.assign(this, {root, id, abort: new AbortController(), steps: [], epochs: [], epoch: null, log: "", logNext: 0});
    this.refresh = debounce(() => this.load().catch(() => {}), 400);
    this.reloadFiles = debounce(() => Promise.all([this.loadSamples(), this.loadLog()]).catch(() => {}), 700);
    this.redraw = debounce(() => this.draw(), 250);
    this.head = h("div"), this.facts = h("dl", {class: "facts big"}), this.actions = h("div", {class: "actions"});
    this.bar = h("progress", {class: "wide", max: 1, value: 0, "aria-label": "Progress of the job"});
    this.line = h("p", {class: "muted", role: "status"});
    this.loss = new Figure("Loss", {x: "step", log: true});
    this.bands = new Figure("Loss by timestep, latest epoch", {x: "timesteps from little to much noise", kind: "bar", legend: false});
    this.rate = new Figure("Images a second", {x: "step", legend: false});
    this.lr = new Figure("Learning rate", {x: "step", legend: false});
    this.samples = h("section", {class: "panel samples", "aria-label": "Samples"});
    this.logBox = h("pre", {class: "log", tabindex: "0", "aria-label": "Log"});
    fill(root, this.head, this.bar, this.line, this.facts, this.actions, this.charts = h("div", {class: "charts"}, this.loss.element, this.bands.element, this.rate.element, this.lr.element),
         h("div", {class: "columns even"}, this.samples, h("section", {class: "panel", "aria-label": "Log"}, h("h2", {}, "Log"), this.logBox)), this.configuration = h("details", {class: "panel"}));
  }

  async open() {
    await this.load();
    const m = await get(`jobs/${this.id}/metrics?max_points=${MAX_POINTS}`);
    this.steps = m.steps;
    this.epochs = m.epochs;
    this.draw();
    await Promise.all([this.loadSamples(), this.loadLog()]);
    fill(this.configuration, h("summary", {}, "Configuration"), h("pre", {}, JSON.stringify(this.job.config, null, 1)));
    if (["queued", "running"].includes(this.job.state)) this.follow(this.job.last_event);
    this.timer = setInterval(() => { if (!document.hidden && ["queued", "running"].includes(this.job.state)) this.reloadFiles(); }, 5000);
  }

  follow(after) {
    follow(`jobs/${this.id}/events?after=${after}`, (name, value) => this.onEvent(name, value), this.abort.signal,
           well => { if (!well) this.line.textContent = "The daemon does not answer; the job goes on without it. Trying again …"; });
  }

  onEvent(name, value) {
    if (name === "step") {
      this.steps = this.steps.filter(s => s.step < value.step); // a resumed run does steps again
      this.steps.push(value);
      if (this.steps.length > 2 * MAX_POINTS) this.steps = this.steps.filter((_, i) => i % 2 || i > this.steps.length - 50);
    } else if (name === "epoch") {
      this.epochs = this.epochs.filter(e => e.epoch < value.epoch);
      this.epochs.push(value);
      this.reloadFiles();
    } else {
      this.reloadFiles();
    }
    this.refresh();
    this.redraw();
  }

  async load() {
    this.job = await get(`jobs/${this.id}`);
    const j = this.job, p = j.progress, m = j.metrics || {}, last = this.steps.at(-1) || m;
    fill(this.head, h("div", {class: "bar"}, h("h1", {}, j.name || `Job ${j.id}`), badge(j), h("span", {class: "muted"}, `job ${j.id} on ${j.device}`), h("a", {class: "button quiet", href: "#train"}, "All runs")));
    this.charts.hidden = this.samples.hidden = j.type !== "train";
    this.bar.value = p.fraction || 0;
    this.bar.classList.toggle("idle", j.state !== "running");
    this.line.textContent = j.state === "queued" ? `Waiting, place ${j.queue_position} in the queue.`
      : j.state === "running" ? (j.cancel_requested ? "Stopping after a checkpoint …" : j.eta_seconds !== null ? `About ${duration(j.eta_seconds)} left.` : "Starting; the time left is known after a few steps.")
      : `${j.end?.message || j.end?.outcome || "Ended"}${j.ended ? `, ${when(j.ended)}` : ""}.`.replace("..", ".");
    fill(this.facts, fact("Step", p.total_steps ? `${count(p.step)} / ${count(p.total_steps)}` : "–"), fact("Epoch", count(p.epoch)), fact("Loss", significant(last.loss)),
         fact("Validation", significant(this.epochs.at(-1)?.val_loss)), fact("Learning rate", significant(last.lr, 3)), fact("Images/s", significant(last.images_per_s, 3)));
    this.showActions();
  }

  // ---- what can be done

  act(label, what, options = {}) {
    return h("button", {class: options.class, onclick: async () => {
      if (options.question && !await confirmed(options.question, label)) return;
      try { await what(); } catch (error) { toast(error.detail || error.message, {bad: true}); }
    }}, label);
  }

  showActions() {
    const state = this.job.state, ended = !["queued", "running"].includes(state), list = [];
    const change = verb => async () => {
      const r = await post(`jobs/${this.id}/${verb}`);
      await this.load();
      if (verb === "resume") this.follow(r.job.last_event);
    };
    if (!ended && !this.job.cancel_requested) list.push(this.act("Cancel", change("cancel"), {class: "danger", question: "Stop this run? It writes a checkpoint first, and can be resumed."}));
    if (["failed", "cancelled"].includes(state)) list.push(this.act("Resume", change("resume"), {class: "primary"}));
    if (this.job.progress.checkpoint_step !== null) list.push(this.act("Publish …", () => this.publish(), {class: state === "succeeded" ? "primary" : ""}));
    if (ended) {
      list.push(this.act("Run again", async () => { location.hash = `#train/${(await post(`jobs/${this.id}/retry`)).id}`; }));
      list.push(this.act("Delete", async () => { await remove(`jobs/${this.id}`); location.hash = "#train"; }, {class: "quiet", question: "Delete this job with its checkpoints, samples and log?"}));
    }
    const signature = list.map(b => b.textContent).join();
    if (signature !== this.actionsShown) fill(this.actions, list);
    this.actionsShown = signature;
  }

  async publish() {
    const {checkpoints} = await get(`jobs/${this.id}/checkpoints`), has = c => checkpoints.some(k => k.checkpoint === c);
    const name = h("input", {id: "publish-name", required: true, pattern: "[A-Za-z0-9_][A-Za-z0-9._\\-]*", maxlength: "64", value: (this.job.name || `job-${this.id}`).replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[.-]+/, "")});
    const which = h("select", {id: "publish-which", value: has("best") ? "best" : undefined}, checkpoints.map(c => option(c.checkpoint, typeof c.checkpoint === "number" ? `epoch ${c.checkpoint}` : c.checkpoint)));
    const said = h("div", {role: "status", class: "said"});
    const send = async e => {
      e.preventDefault();
      try {
        const value = /^\d+$/.test(which.value) ? Number(which.value) : which.value;
        await post(`models/${name.value}/from-job`, {job: this.id, checkpoint: value});
        const canary = URL.createObjectURL(await (await request("GET", `jobs/${this.id}/samples/canary.png`, {accept: "image/png"})).blob());
        fill(said, h("p", {}, `${name.value} is served now. It made this before it was:`), h("img", {class: "canary", src: canary, alt: "One image of each class", onload: () => URL.revokeObjectURL(canary)}), h("div", {class: "actions"}, h("a", {class: "button primary", href: `#generate/${name.value}`, onclick: () => d.close()}, "Generate with it"), this.rollBack(name.value, said)));
      } catch (error) {
        fill(said, h("p", {class: "error"}, error.detail || error.message));
      }
    };
    const d = dialog("Publish", h("h2", {}, "Publish a model"), h("p", {class: "muted"}, "The checkpoint’s averaged weights are put into service under this name, without a dropped request. A model that has the name now is kept, to roll back to."),
      h("form", {onsubmit: send}, h("div", {class: "pair"}, h("div", {class: "row"}, h("label", {htmlFor: "publish-name"}, "Name"), name), h("div", {class: "row"}, h("label", {htmlFor: "publish-which"}, "Checkpoint"), which)),
        h("div", {class: "actions"}, h("button", {class: "primary"}, "Publish"))), said);
    name.focus();
  }

  rollBack(name, said) {
    return h("button", {onclick: async () => {
      try {
        await post(`models/${name}/rollback`);
        fill(said, h("p", {}, `${name} is what it was before.`));
      } catch (error) {
        fill(said, h("p", {class: "error"}, error.detail || error.message));
      }
    }}, "Roll back");
  }

  // ---- curves, samples, log

  draw() {
    const points = name => this.steps.filter(s => s[name] !== null).map(s => ({x: s.step, y: s[name]}));
    const validation = this.epochs.filter(e => e.val_loss !== null).map(e => ({x: e.step, y: e.val_loss}));
    this.loss.show([{label: "training", data: points("loss"), tone: "ink", alpha: 0.55}, {label: "validation", data: validation, tone: "accent", points: true, joined: true}]);
    this.rate.show([{label: "images/s", data: points("images_per_s")}]);
    this.lr.show([{label: "learning rate", data: points("lr")}]);
    const bands = (this.epochs.at(-1) || this.steps.at(-1))?.loss_by_timestep;
    if (bands) this.bands.show([{label: "loss", data: bands}], bands.map((_, i) => `${i * (100 / bands.length)} %`));
  }

  async loadSamples() {
    const {samples} = await get(`jobs/${this.id}/samples`);
    if (!samples.length) {
      fill(this.samples, h("h2", {}, "Samples"), h("p", {class: "muted"}, "A grid of images appears here after an epoch; the configuration’s sample.every says how often."));
      return;
    }
    if (this.known === samples.length) return;
    const atEnd = this.at === undefined || this.at === this.known - 1;
    this.known = samples.length;
    this.images = this.images || new Map();
    const img = h("img", {alt: "Samples", class: "pixels"}), said = h("output", {class: "muted"});
    const range = h("input", {type: "range", min: "0", max: String(samples.length - 1), "aria-label": "Epoch of the samples", oninput: () => show(Number(range.value))});
    const show = async i => {
      this.at = i;
      const {epoch} = samples[i];
      if (!this.images.has(epoch)) this.images.set(epoch, URL.createObjectURL(await (await request("GET", `jobs/${this.id}/samples/${epoch}.png`, {accept: "image/png"})).blob()));
      if (this.at !== i) return;
      range.value = String(i);
      img.src = this.images.get(epoch);
      img.alt = `Samples after epoch ${epoch}`;
      said.textContent = `epoch ${epoch}`;
    };
    fill(this.samples, h("h2", {}, "Samples"), h("div", {class: "scrub"}, range, said), img);
    await show(atEnd ? samples.length - 1 : this.at);
  }

  async loadLog() {
    for (;;) {
      const r = await request("GET", `jobs/${this.id}/log?offset=${this.logNext}`, {accept: "text/plain"}), text = await r.text();
      if (!text) break;
      this.logNext = Number(r.headers.get("X-Log-Next"));
      this.log = (this.log + text).slice(-100000);
    }
    const atEnd = this.logBox.scrollTop + this.logBox.clientHeight >= this.logBox.scrollHeight - 8;
    this.logBox.textContent = this.log || "Nothing yet.";
    if (atEnd) this.logBox.scrollTop = this.logBox.scrollHeight;
  }

  close() {
    this.abort.abort();
    clearInterval(this.timer);
    [this.loss, this.bands, this.rate, this.lr].forEach(f => f.close());
    for (const url of this.images?.values() || []) URL.revokeObjectURL(url);
  }
}

/** Shows a job; returns what ends that. */
export async function openJob(root, id) {
  const view = new JobView(root, id);
  try {
    await view.open();
  } catch (error) {
    view.close();
    fill(root, error.status === 404 ? notice(`There is no job ${id}`, "It may have been deleted.", h("a", {class: "button", href: "#train"}, "All runs")) : problemNotice(error));
  }
  return () => view.close();
}
