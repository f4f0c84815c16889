// result.js: images while they are made and after: tiles with progress, enlarged view, trajectory.
import {count, dialog, download, fill, h, ms, plural, pngBlob} from "./dom.js";

const fileName = (r, i) => `ddimd-${r.model}-${r.seed}${i === undefined ? "" : `-${String(i).padStart(3, "0")}`}.png`;
const dataUrl = png => `data:image/png;base64,${png}`;

/** Tiles for the images of one run. */
export class Tiles {
  constructor(classes, steps) {
    this.steps = steps;
    this.tiles = classes.map((name, i) => this.tile(name, i));
    this.element = h("div", {class: "tiles", "data-n": classes.length <= 4 ? "few" : classes.length <= 24 ? "some" : "many"}, this.tiles.map(t => t.button));
  }

  tile(name, i) {
    const img = h("img", {alt: "", hidden: true}), bar = h("progress", {max: this.steps, value: 0, "aria-label": `Steps of image ${i}`});
    return {img, bar, name, button: h("button", {type: "button", class: "tile pending", disabled: true, "aria-label": `Image ${i}, ${name}`, onclick: () => this.open?.(i)},
                                      img, bar, h("span", {class: "label"}, name))};
  }

  preview(image, step, png) {
    const t = this.tiles[image];
    if (!t) return;
    t.img.src = dataUrl(png);
    t.img.hidden = false;
    t.bar.value = step;
  }

  show(image, png) {
    const t = this.tiles[image];
    t.img.src = dataUrl(png);
    t.img.hidden = false;
    t.img.alt = `Generated image of class ${t.name}`;
    t.bar.hidden = true;
    t.button.disabled = false;
    t.button.classList.remove("pending");
  }

  finish(result, open) {
    const frames = result.results_per_image || 1;
    this.open = open;
    this.tiles.forEach((t, i) => this.show(i, result.images[(i + 1) * frames - 1]));
  }
}

/** The enlarged view: arrows go through the images, and through the states where the trajectory was kept. */
export function enlarge(result, image) {
  const frames = result.results_per_image || 1, n = result.images.length / frames;
  let frame = frames - 1;
  const img = h("img", {alt: ""}), caption = h("p", {class: "muted", role: "status"});
  const range = h("input", {type: "range", min: "0", max: String(frames - 1), "aria-label": "State on the way", oninput: () => { frame = Number(range.value); draw(); }});
  const go = by => { image = (image + by + n) % n; draw(); };
  function draw() {
    img.src = dataUrl(result.images[image * frames + frame]);
    img.alt = `Image ${image} of class ${result.classes[image]}`;
    range.value = String(frame);
    fill(caption, `Image ${image + 1} of ${n}, class ${result.classes[image]}`, frames > 1 ? `, state ${frame + 1} of ${frames}` : "");
  }
  const d = dialog("Enlarged image", h("div", {class: "enlarged"}, img, frames > 1 ? range : null, caption),
                   h("div", {class: "actions"},
                     h("button", {onclick: () => go(-1), "aria-label": "Previous image"}, "←"), h("button", {onclick: () => go(1), "aria-label": "Next image"}, "→"),
                     h("button", {onclick: () => download(pngBlob(result.images[image * frames + frame]), fileName(result, image))}, "Download")));
  d.addEventListener("keydown", e => {
    if (e.target === range) return;
    if (e.key === "ArrowLeft") go(-1);
    else if (e.key === "ArrowRight") go(1);
    else if (frames > 1 && (e.key === "ArrowUp" || e.key === "ArrowDown")) {
      frame = Math.min(frames - 1, Math.max(0, frame + (e.key === "ArrowUp" ? 1 : -1)));
      draw();
      e.preventDefault();
    }
  });
  draw();
}

/** From noise to image: one row of states for each image, and a slider that shows one state in all tiles. */
export function trajectory(result, tiles) {
  const frames = result.results_per_image;
  const range = h("input", {type: "range", min: "0", max: String(frames - 1), value: String(frames - 1), "aria-label": "State on the way, from noise to image"});
  const at = h("output", {class: "muted"});
  let timer;
  function show(frame) {
    range.value = String(frame);
    at.textContent = `state ${Number(frame) + 1} of ${frames}`;
    tiles.tiles.forEach((t, i) => { t.img.src = dataUrl(result.images[i * frames + Number(frame)]); });
  }
  function play() {
    clearInterval(timer);
    let frame = 0;
    show(0);
    timer = setInterval(() => { if (++frame >= frames || !range.isConnected) clearInterval(timer); else show(frame); }, Math.max(60, 1500 / frames));
  }
  range.addEventListener("input", () => { clearInterval(timer); show(range.value); });
  const strip = i => h("div", {class: "strip", role: "img", "aria-label": `Image ${i} from noise to the result`},
                       result.images.slice(i * frames, (i + 1) * frames).map(png => h("img", {src: dataUrl(png), alt: "", loading: "lazy"})));
  const n = result.images.length / frames, shown = Math.min(n, 8);
  show(frames - 1);
  return h("section", {class: "trajectory", "aria-label": "Trajectory"},
           h("div", {class: "scrub"}, h("button", {onclick: play}, "Play"), range, at),
           Array.from({length: shown}, (_, i) => strip(i)), n > shown ? h("p", {class: "muted"}, `The rows of the first ${shown} of ${n} images.`) : null);
}

/** What is said and offered below finished images. */
export function summary(result, actions) {
  const t = result.timing, n = result.classes.length, p = result.parameters;
  return h("div", {class: "summary"},
           h("p", {}, h("strong", {}, plural(n, "image")), ` of ${result.model}, ${plural(p.steps, "step")} in ${ms(t.sample_ms)}`,
             t.queue_ms >= 1 ? `, waited ${ms(t.queue_ms)}` : "", ", seed ", h("code", {}, result.seed)),
           h("div", {class: "actions"}, h("button", {onclick: () => download(pngBlob(result.png), fileName(result))}, "Download PNG"), actions));
}

export const progressText = (done, total) => done ? `${count(done)} of ${count(total)} image steps` : "Waiting for the first step";
