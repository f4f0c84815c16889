// compare.js: two results, one over the other, with a slider between them.
import {dialog, h} from "./dom.js";

const NAMES = ["class", "n", "steps", "method", "eta", "sampler", "guidance", "seed", "model", "clip"];

function differences(a, b) {
  const text = v => Array.isArray(v) ? v.join(", ") : String(v);
  const rows = NAMES.filter(n => text(a[n]) !== text(b[n])).map(n =>
    h("tr", {}, h("th", {scope: "row"}, n), h("td", {}, text(a[n])), h("td", {}, text(b[n]))));
  return rows.length ? h("table", {class: "compact"}, h("thead", {}, h("tr", {}, h("th", {}, "differs"), h("th", {}, "left"), h("th", {}, "right"))),
                         h("tbody", {}, rows))
                     : h("p", {class: "muted"}, "Both were made with the same settings.");
}

/** left, right: {parameters, png: Blob}. */
export function compare(left, right) {
  const urls = [left, right].map(r => URL.createObjectURL(r.png));
  const over = h("img", {class: "over", src: urls[0], alt: "Left result"});
  const stack = h("div", {class: "stack"}, h("img", {src: urls[1], alt: "Right result"}), over, h("span", {class: "edge"}));
  const slider = h("input", {type: "range", min: "0", max: "100", value: "50", "aria-label": "Where the left result ends",
                             oninput: () => stack.style.setProperty("--at", `${slider.value}%`)});
  stack.style.setProperty("--at", "50%");
  stack.addEventListener("pointermove", e => {
    if (!(e.buttons & 1) && e.pointerType === "mouse") return;
    const box = stack.getBoundingClientRect();
    slider.value = 100 * (e.clientX - box.left) / box.width;
    slider.dispatchEvent(new Event("input"));
  });
  const d = dialog("Compare two results", h("h2", {}, "Compare"), h("div", {class: "comparison"}, stack, slider),
                   differences(left.parameters, right.parameters));
  d.addEventListener("close", () => urls.forEach(u => URL.revokeObjectURL(u)));
  slider.focus();
}
