// charts.js: chart.js, read when the first chart is drawn, in the page's colours.
import {h, significant} from "./dom.js";

let library;
const load = () => library = library || import("./chart.js").then(m => m.Chart);

/** A custom property as the colour that it is now. */
export function colour(name) {
  const probe = h("span", {class: `probe ${name}`});
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

const faded = (rgb, alpha) => rgb.replace(/^rgb\(([^)]+)\)$/, `rgba($1, ${alpha})`);

function axis(title, more = {}) {
  return {title: {display: Boolean(title), text: title, color: colour("muted")}, border: {display: false},
          grid: {color: colour("line"), drawBorder: false}, ticks: {color: colour("muted"), maxTicksLimit: 6, font: {size: 11}, callback: v => significant(Number(v), 3)}, ...more};
}

/** All charts that are drawn, to be coloured anew when the theme changes. */
const drawn = new Set();

/** A chart of points {x, y}. series: [{label, data, tone: "accent" | "ink" | "muted", points}] or for kind "bar" {labels, series}. */
export class Figure {
  constructor(label, {x = "", y = "", kind = "line", log = false, labels, legend = true} = {}) {
    Object.assign(this, {options: {x, y, kind, log, labels, legend}, series: []});
    this.canvas = h("canvas", {role: "img", "aria-label": label});
    this.element = h("figure", {class: "chart"}, h("figcaption", {}, label), h("div", {class: "canvas"}, this.canvas));
    this.turn = Promise.resolve();
  }

  datasets() {
    return this.series.map(s => {
      const c = colour(s.tone || "accent");
      return {label: s.label, data: s.data, borderColor: s.alpha ? faded(c, s.alpha) : c, backgroundColor: this.options.kind === "bar" ? c : faded(c, 0.15), borderWidth: s.points ? 0 : 1.5,
              pointRadius: s.points ? 3 : 0, pointBackgroundColor: c, pointHoverRadius: 4, showLine: !s.points || s.joined, tension: 0, spanGaps: true, ...(s.joined ? {borderWidth: 1.5} : {})};
    });
  }

  config() {
    const {x, y, kind, log, labels, legend} = this.options;
    return {type: kind, data: {labels, datasets: this.datasets()},
            options: {animation: false, responsive: true, maintainAspectRatio: false, parsing: kind === "bar", normalized: true,
                      interaction: {mode: "nearest", axis: "x", intersect: false},
                      scales: {x: kind === "bar" ? axis(x, {type: "category", ticks: {color: colour("muted"), font: {size: 11}}, grid: {display: false}}) : axis(x, {type: "linear"}),
                               y: axis(y, log ? {type: "logarithmic"} : {beginAtZero: true, suggestedMax: 1e-6})},
                      plugins: {legend: {display: legend && this.series.length > 1, align: "start", labels: {color: colour("ink"), boxWidth: 12, boxHeight: 2, font: {size: 12}}},
                                tooltip: {callbacks: {label: c => ` ${c.dataset.label}: ${significant(c.parsed.y)}`}}}}};
  }

  /** Draws series; the chart is made anew where their number changed. */
  show(series, labels) {
    this.series = series;
    if (labels) this.options.labels = labels;
    this.turn = this.turn.then(async () => {
      const Chart = await load();
      if (!this.canvas.isConnected) return;
      if (this.chart && this.chart.data.datasets.length === this.series.length) {
        this.datasets().forEach((d, i) => Object.assign(this.chart.data.datasets[i], d));
        this.chart.data.labels = this.options.labels;
        this.chart.update("none");
      } else {
        this.chart?.destroy();
        this.chart = new Chart(this.canvas, this.config());
        drawn.add(this);
      }
    });
    return this.turn;
  }

  close() {
    this.chart?.destroy();
    this.chart = null;
    drawn.delete(this);
  }
}

export function recolour() {
  for (const f of drawn) {
    if (!f.canvas.isConnected) {
      f.close();
      continue;
    }
    f.chart.destroy();
    f.chart = null;
    f.show(f.series);
  }
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
