// request.js: the form of a generation: what is asked for, checked by the daemon as one types.
import {post} from "./api.js";
import {debounce, fill, h, ms, option, plural} from "./dom.js";

const randomSeed = () => {
  const [high, low] = crypto.getRandomValues(new Uint32Array(2));
  return String((BigInt(high & 0x1fffff) << 32n) | BigInt(low)); // 53 bits, as the daemon's own
};

export class RequestForm {
  /** schema: of the document's Generate. onrun: the form was sent. */
  constructor(schema, models, limits, onrun) {
    Object.assign(this, {schema, limits, inputs: {}, rows: {}, classes: new Set(), locked: false});
    this.cost = h("p", {class: "cost", role: "status"});
    this.build();
    this.element = h("form", {class: "request panel", novalidate: true, "aria-label": "What to generate",
                              onsubmit: e => { e.preventDefault(); onrun(); }}, this.content);
    this.element.addEventListener("input", () => this.changed());
    this.check = debounce(() => this.ask(), 250);
    this.setModels(models);
  }

  // ---- making it

  build() {
    const p = this.schema.properties, list = name => p[name].enum;
    this.chips = h("div", {class: "chips", role: "group", "aria-label": "Classes"});
    this.content = [
      this.row("model", "Model", h("select", {name: "model", onchange: () => this.showClasses()})),
      h("fieldset", {class: "row"}, h("legend", {}, "Classes"), this.chips, this.rows.class = h("p", {class: "error", hidden: true})),
      this.slider("n", "Per class", 1, 16, 1),
      this.slider("steps", "Steps", 1, 200, 1),
      h("div", {class: "pair"},
        this.row("sampler", "Sampler", h("select", {name: "sampler"}, list("sampler").map(n => option(n)))),
        this.row("method", "Spacing", h("select", {name: "method"}, list("method").map(n => option(n))))),
      this.slider("eta", "Eta", 0, 1, 0.05),
      this.slider("guidance", "Guidance", 0, 8, 0.25),
      this.seedRow(),
      h("label", {class: "check"}, this.inputs.path = h("input", {type: "checkbox", name: "path"}), "Trajectory: every", this.inputs.interval = h("input", {type: "number", name: "interval", min: "1", class: "tiny", "aria-label": "Steps between two kept states", placeholder: "50"}), "steps"),
      this.rows.interval = h("p", {class: "error", hidden: true}),
      h("details", {}, h("summary", {}, "More"),
        h("div", {class: "pair"},
          this.row("scale", "Scale of the file", h("input", {type: "number", name: "scale", min: "1", max: "16"})),
          this.row("nrow", "Images in a row", h("input", {type: "number", name: "nrow", min: "1", placeholder: "auto"}))),
        h("div", {class: "pair"},
          this.row("priority", "Priority", h("select", {name: "priority"}, list("priority").map(n => option(n)))),
          this.row("timeout_ms", "Give up after (ms)", h("input", {type: "number", name: "timeout_ms", min: "1", placeholder: "never"}))),
        h("label", {class: "check"}, this.inputs.clip = h("input", {type: "checkbox", name: "clip"}), "Clip each step’s prediction to [−1, 1]"),
        h("label", {class: "check"}, this.inputs.to_grayscale = h("input", {type: "checkbox", name: "to_grayscale"}), "Grey picture")),
    ];
    for (const name of ["n", "steps", "eta", "guidance", "scale"]) this.put(name, p[name].default);
    for (const name of ["sampler", "method", "priority"]) this.inputs[name].value = p[name].default;
  }

  row(name, label, input, ...more) {
    const id = `f-${name}`;
    input.id = id;
    input.title = this.schema.properties[name]?.description || "";
    this.inputs[name] = input;
    this.rows[name] = h("p", {class: "error", id: `${id}-error`, hidden: true});
    input.setAttribute("aria-describedby", `${id}-error`);
    return h("div", {class: "row"}, h("label", {htmlFor: id}, label), input, more, this.rows[name]);
  }

  /** A range for the usual values beside a number for all of them. */
  slider(name, label, low, high, step) {
    const range = h("input", {type: "range", min: low, max: high, step, "aria-label": `${label}, slider`, tabindex: "-1"});
    const number = h("input", {type: "number", name, min: low, step: step < 1 ? "any" : step, max: this.schema.properties[name].maximum, class: "small"});
    range.addEventListener("input", () => { number.value = range.value; });
    number.addEventListener("input", () => { range.value = number.value; });
    number.range = range;
    const row = this.row(name, label, number);
    row.classList.add("slider");
    number.after(range);
    return row;
  }

  put(name, value) {
    this.inputs[name].value = value;
    if (this.inputs[name].range) this.inputs[name].range.value = value;
  }

  seedRow() {
    const input = h("input", {name: "seed", inputmode: "numeric", autocomplete: "off", spellcheck: "false", value: randomSeed(), class: "mono",
                              oninput: () => this.lock(true)});
    this.lockButton = h("button", {type: "button", "aria-pressed": "false", title: "Keep this seed for the next run (L)", onclick: () => this.lock(!this.locked)}, "Lock");
    return this.row("seed", "Seed", input, h("div", {class: "buttons"},
      h("button", {type: "button", title: "Another random seed", onclick: () => this.newSeed()}, "Random"), this.lockButton,
      h("button", {type: "button", title: "The next seed, and keep it", onclick: () => this.nextSeed()}, "+1")));
  }

  lock(on) {
    this.locked = on;
    this.lockButton.setAttribute("aria-pressed", String(on));
    this.lockButton.textContent = on ? "Locked" : "Lock";
  }

  newSeed() {
    this.inputs.seed.value = randomSeed();
    this.lock(false);
    this.changed();
  }

  nextSeed() {
    const now = /^\d+$/.test(this.inputs.seed.value) ? BigInt(this.inputs.seed.value) : 0n;
    this.inputs.seed.value = String((now + 1n) % (1n << 64n));
    this.lock(true);
    this.changed();
  }

  // ---- models and classes

  setModels(models) {
    const usable = models.filter(m => !m.error), before = this.inputs.model.value, signature = JSON.stringify(usable.map(m => [m.name, m.default, m.classes, m.T]));
    if (signature === this.signature) return; // what one is about to click on stays
    this.signature = signature;
    this.models = usable;
    fill(this.inputs.model, usable.map(m => option(m.name, m.default ? `${m.name} (default)` : m.name)));
    const chosen = usable.find(m => m.name === before) || usable.find(m => m.default) || usable[0];
    if (chosen) this.inputs.model.value = chosen.name;
    this.showClasses();
  }

  get model() {
    return this.models.find(m => m.name === this.inputs.model.value);
  }

  showClasses() {
    const names = this.model?.classes || [];
    this.classes = new Set([...this.classes].filter(c => c === "none" || Number(c) < names.length));
    const chip = (value, text, title) => h("button", {type: "button", class: "chip", "data-class": value, title, "aria-pressed": String(this.classes.has(value)),
                                                      onclick: () => this.toggle(value)}, text);
    fill(this.chips, h("button", {type: "button", class: "chip", "data-class": "all", "aria-pressed": "false", onclick: () => { this.classes.clear(); this.changed(); }}, "all"),
         names.map((name, i) => chip(String(i), name, name === String(i) ? `Class ${i}` : `Class ${i}: ${name}`)),
         chip("none", "no class", "The null class: what the model makes of no label"));
    this.changed();
  }

  toggle(value) {
    if (this.classes.has(value)) this.classes.delete(value);
    else this.classes.add(value);
    this.changed();
  }

  className(index) {
    return index === "none" ? "none" : this.model?.classes?.[index] ?? String(index);
  }

  // ---- what it says

  /** The body of a request; what has its default is left out, but for the seed. */
  body() {
    const p = this.schema.properties, i = this.inputs, body = {};
    const number = name => { if (i[name].value !== "" && Number(i[name].value) !== p[name].default) body[name] = Number(i[name].value); };
    const choice = name => { if (i[name].value !== p[name].default) body[name] = i[name].value; };
    if (this.model && !this.model.default) body.model = this.model.name;
    if (this.classes.size) body.class = [...this.classes].map(c => c === "none" ? c : Number(c));
    ["n", "steps"].forEach(number);
    ["method", "sampler"].forEach(choice);
    if (i.sampler.value === "ddim") number("eta");
    number("guidance");
    body.seed = i.seed.value.trim();
    ["nrow", "scale"].forEach(number);
    for (const name of ["clip", "to_grayscale"]) if (i[name].checked) body[name] = true;
    if (i.path.checked) {
      body.result_only = false;
      number("interval");
    }
    choice("priority");
    number("timeout_ms");
    return body;
  }

  /** Takes over the settings that a PNG or the history says. */
  set(parameters) {
    const i = this.inputs, p = this.schema.properties;
    if (this.models.some(m => m.name === parameters.model)) i.model.value = parameters.model;
    const names = this.model?.classes || [], list = [].concat(parameters.class ?? "all").map(String);
    const every = list.includes("all") || (list.length === names.length && list.every((c, k) => c === String(k)));
    this.classes = new Set(every ? [] : list);
    for (const name of ["n", "steps", "eta", "guidance", "scale"]) this.put(name, parameters[name] ?? p[name].default);
    for (const name of ["sampler", "method"]) i[name].value = parameters[name] ?? p[name].default;
    for (const name of ["clip", "to_grayscale"]) i[name].checked = Boolean(parameters[name]);
    i.path.checked = parameters.result_only === false;
    i.interval.value = i.path.checked ? parameters.interval ?? "" : "";
    i.nrow.value = "";
    if (parameters.seed !== undefined) {
      i.seed.value = String(parameters.seed);
      this.lock(true);
    }
    this.showClasses();
  }

  /** Before a run: a fresh seed where it is not locked. */
  draw() {
    if (!this.locked) this.inputs.seed.value = randomSeed();
  }

  // ---- what the daemon says to it

  changed() {
    const i = this.inputs, ddpm = i.sampler.value === "ddpm";
    for (const b of this.chips.children)
      b.setAttribute("aria-pressed", String(b.dataset.class === "all" ? this.classes.size === 0 : this.classes.has(b.dataset.class)));
    for (const name of ["steps", "method"]) i[name].disabled = ddpm;
    i.steps.range.disabled = ddpm;
    i.eta.disabled = i.eta.range.disabled = i.sampler.value !== "ddim";
    i.interval.disabled = !i.path.checked;
    i.steps.max = this.model?.T || this.schema.properties.steps.maximum;
    this.onchange?.();
    this.check?.();
  }

  /** A dry run: the cost, or the field at fault. Returns whether all is well. */
  async ask() {
    const turn = this.turn = (this.turn || 0) + 1;
    try {
      const r = await post("generate?dry_run=true", this.body());
      if (turn !== this.turn) return true;
      this.showProblem(null);
      fill(this.cost, `${plural(r.images, "image")} × ${plural(r.timesteps.length, "step")}, about ${ms(r.expected_ms)}`);
      return true;
    } catch (error) {
      if (turn === this.turn) this.showProblem(error);
      return false;
    }
  }

  showProblem(problem) {
    for (const [name, row] of Object.entries(this.rows)) {
      row.hidden = true;
      this.inputs[name]?.removeAttribute("aria-invalid");
    }
    if (!problem) return;
    const row = this.rows[problem.field];
    fill(this.cost, row ? "" : problem.detail || problem.message);
    if (!row) return;
    row.hidden = false;
    row.textContent = problem.detail + (problem.nearest ? ` Did you mean ${problem.nearest}?` : "");
    this.inputs[problem.field]?.setAttribute("aria-invalid", "true");
  }
}
