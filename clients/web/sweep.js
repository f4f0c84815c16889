// sweep.js: two parameters as axes: a request for each cell. Cells that run at the same time share the device's steps.
import {generate, metrics} from "./api.js";
import {copy, count, download, fill, h, ms, option, pngBlob} from "./dom.js";
import {generateCurl} from "./curl.js";

const AT_ONCE = 4; // of the six connections that a browser opens, some are for other things
const AXES = {steps: "5, 10, 20, 50", eta: "0, 0.5, 1", guidance: "1, 2, 4", sampler: "ddim, dpmpp_2m", method: "linear, quadratic, trailing", seed: "1, 2, 3, 4", class: "0, 1, 2, 3"};
const TEXT = new Set(["sampler", "method", "seed", "class"]);

/** How many images shared a step, by the daemon's count. */
async function counters() {
  const m = await metrics();
  return {steps: m.value("ddimd_steps_total"), lanes: m.value("ddimd_lane_steps_total")};
}

export class Sweep {
  constructor(form) {
    this.form = form;
    this.axes = {x: this.axis("x", "steps"), y: this.axis("y", "eta")};
    this.table = h("div", {class: "scroll"});
    this.status = h("p", {class: "muted", role: "status"});
    this.actions = h("div", {class: "actions"});
    this.element = h("section", {class: "sweep", "aria-label": "Grid of two parameters"},
                     h("p", {class: "muted"}, "Two parameters as axes; everything else is as the form says, with one seed for all cells. The cells run together and share the device’s steps."),
                     h("div", {class: "axes"}, this.axes.x.element, this.axes.y.element), this.status, this.table, this.actions);
  }

  axis(name, parameter) {
    const values = h("input", {value: AXES[parameter], "aria-label": `Values of axis ${name}`, name: `axis-${name}`});
    const select = h("select", {"aria-label": `Parameter of axis ${name}`, value: parameter, onchange: () => { values.value = AXES[select.value]; }},
                     Object.keys(AXES).map(n => option(n)));
    return {select, values, element: h("div", {class: "axis"}, h("span", {class: "muted"}, name === "x" ? "Across" : "Down"), select, values)};
  }

  values(axis) {
    const name = axis.select.value;
    return axis.values.value.split(/[,\s]+/).filter(Boolean).slice(0, 12).map(v => TEXT.has(name) ? v : Number(v));
  }

  body(base, x, y) {
    const body = {...base, [this.axes.y.select.value]: y, [this.axes.x.select.value]: x};
    delete body.result_only;
    delete body.interval;
    return body;
  }

  cell(base, x, y) {
    const img = h("img", {alt: "", hidden: true}), bar = h("progress", {max: 1, value: 0, "aria-label": "Progress of the cell"});
    const note = h("span", {class: "label"}), td = h("td", {}, img, bar, note);
    return {x, y, img, bar, note, td, body: this.body(base, x, y)};
  }

  draw(xs, ys, cells) {
    const at = (i, k) => cells[i * xs.length + k].td;
    fill(this.table, h("table", {class: "cells"},
      h("thead", {}, h("tr", {}, h("th", {class: "corner"}, `${this.axes.y.select.value} ↓  ${this.axes.x.select.value} →`), xs.map(x => h("th", {scope: "col"}, String(x))))),
      h("tbody", {}, ys.map((y, i) => h("tr", {}, h("th", {scope: "row"}, String(y)), xs.map((_, k) => at(i, k)))))));
  }

  async fillCell(c, signal) {
    try {
      const r = await generate(c.body, `cell ${c.x} / ${c.y}`, {
        progress: (done, total) => { c.bar.max = total; c.bar.value = done; },
        preview: (image, step, png) => { if (image === 0) { c.img.src = `data:image/png;base64,${png}`; c.img.hidden = false; } },
      }, signal);
      c.result = r;
      c.img.src = `data:image/png;base64,${r.png}`;
      c.img.alt = `Result for ${c.x}, ${c.y}`;
      c.img.hidden = false;
      c.note.textContent = ms(r.timing.sample_ms);
    } catch (error) {
      c.note.textContent = error.name === "AbortError" ? "cancelled" : error.detail || error.message;
      c.td.className = error.name === "AbortError" ? "" : "bad";
    }
    c.bar.hidden = true;
  }

  async run(signal) {
    const xs = this.values(this.axes.x), ys = this.values(this.axes.y);
    if (this.axes.x.select.value === this.axes.y.select.value || !xs.length || !ys.length) {
      this.status.textContent = "Choose two different parameters and give each at least one value, separated by commas.";
      return;
    }
    const base = {class: [0], ...this.form.body()}, cells = ys.flatMap(y => xs.map(x => this.cell(base, x, y)));
    this.draw(xs, ys, cells);
    fill(this.actions);
    const before = await counters(), begun = performance.now(), queue = [...cells];
    this.status.textContent = `Running ${cells.length} cells …`;
    await Promise.all(Array.from({length: AT_ONCE}, async () => {
      for (let c; (c = queue.shift());) await this.fillCell(c, signal);
    }));
    const after = await counters(), steps = after.steps - before.steps;
    this.status.textContent = `${cells.filter(c => c.result).length} of ${cells.length} cells in ${ms(performance.now() - begun)}; ` +
      `${count(after.lanes - before.lanes)} image steps in ${count(steps)} steps of the device, ${(steps ? (after.lanes - before.lanes) / steps : 0).toFixed(1)} images a step.`;
    this.offer(xs, ys, cells);
  }

  offer(xs, ys, cells) {
    fill(this.actions, h("button", {onclick: () => this.save(xs, ys, cells)}, "Download as one picture"),
         h("button", {onclick: () => copy(cells.map(c => generateCurl(c.body).replace("ddimd.png", `${c.x}-${c.y}.png`)).join(" &\n") + " &\nwait", "Commands")}, "Copy as curl"));
  }

  async save(xs, ys, cells) {
    const pictures = await Promise.all(cells.map(c => c.result ? createImageBitmap(pngBlob(c.result.png)) : null));
    const w = Math.max(...pictures.map(p => p?.width || 0)), height = Math.max(...pictures.map(p => p?.height || 0)), room = 64;
    const canvas = h("canvas", {width: room + xs.length * (w + 8), height: 24 + ys.length * (height + 8)}), g = canvas.getContext("2d");
    g.fillStyle = "#fff";
    g.fillRect(0, 0, canvas.width, canvas.height);
    g.fillStyle = "#000";
    g.font = "12px sans-serif";
    xs.forEach((x, k) => g.fillText(String(x), room + k * (w + 8), 16));
    ys.forEach((y, i) => g.fillText(String(y), 4, 24 + i * (height + 8) + height / 2));
    pictures.forEach((p, i) => p && g.drawImage(p, room + (i % xs.length) * (w + 8), 24 + Math.floor(i / xs.length) * (height + 8)));
    canvas.toBlob(blob => download(blob, "ddimd-grid.png"));
  }
}
