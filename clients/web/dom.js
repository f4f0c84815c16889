// dom.js: elements, words and numbers: what every view uses.

const PROPERTIES = new Set(["textContent", "hidden", "disabled", "checked", "src", "htmlFor", "className", "open"]);

/** h("button", {class: "quiet", onclick: f}, "Go"): an element. Absent values and children are left out. */
export function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  const {value, ...rest} = attributes || {};
  for (const [name, v] of Object.entries(rest)) {
    if (v === undefined || v === null) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), v);
    else if (PROPERTIES.has(name)) element[name] = v;
    else if (v !== false) element.setAttribute(name, v === true ? "" : v);
  }
  element.append(...children.flat(Infinity).filter(c => c !== null && c !== undefined && c !== false));
  if (value !== undefined) element.value = value; // a select has its options by now
  return element;
}

export const option = (value, text) => h("option", {value}, text === undefined ? String(value) : text);

/** Replaces what an element holds. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter(c => c !== null && c !== undefined && c !== false));
  return element;
}

/** An empty or failed state: what is the matter, and what to do about it. */
export function notice(title, text, ...actions) {
  return h("div", {class: "notice"}, h("h3", {}, title), text && h("p", {}, text), actions.some(Boolean) ? h("div", {class: "actions"}, actions) : null);
}

export function problemNotice(error, again) {
  return notice(error.title || "That did not work", error.detail || error.message,
                again && h("button", {onclick: () => again()}, "Try again"),
                [401, 403].includes(error.status) && h("button", {onclick: () => dispatchEvent(new CustomEvent("ddimd-key", {detail: {wanted: true}}))}, "Enter a key"));
}

/** A term and its value, for a list of class "facts". */
export const fact = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));

export const badge = job => h("span", {class: `badge ${job.state}`}, job.cancel_requested && job.state === "running" ? "stopping" : job.state);

/** A table whose rows stay the elements that they are while their contents change: a click or the focus is not lost.
 * headings: "Steps#" is a column of numbers. cells(item, kept): texts and elements; kept is an object of the row's own, for elements to use again. */
export class Rows {
  constructor(headings, cells) {
    Object.assign(this, {numbers: headings.map(t => t.endsWith("#")), cells, known: new Map(), body: h("tbody")});
    this.element = h("div", {class: "scroll"}, h("table", {}, h("thead", {}, h("tr", {}, headings.map(t => h("th", {class: t.endsWith("#") && "number"}, t.replace("#", ""))))), this.body));
  }

  show(items) {
    const gone = new Set(this.known.keys());
    items.forEach((item, i) => {
      const id = gone.has(item.id) || !this.known.has(item.id) ? item.id : `${item.id} ${i}`; // ids that clients chose may be alike
      const row = this.known.get(id) || {kept: {}, element: h("tr")};
      gone.delete(id);
      this.known.set(id, row);
      this.update(row.element, this.cells(item, row.kept));
      if (this.body.children[i] !== row.element) this.body.insertBefore(row.element, this.body.children[i] || null);
    });
    for (const id of gone) {
      this.known.get(id).element.remove();
      this.known.delete(id);
    }
    this.element.hidden = !items.length;
  }

  update(tr, values) {
    values.forEach((value, i) => {
      const td = tr.children[i] || tr.appendChild(h("td", {class: this.numbers[i] && "number"}));
      if (value instanceof Node ? td.firstChild !== value : td.textContent !== value) fill(td, value);
    });
  }
}

/** A short message in the corner. */
export function toast(text, {bad = false, action, label} = {}) {
  const close = () => item.remove();
  const item = h("div", {class: bad ? "toast bad" : "toast"}, h("span", {}, text),
                 action && h("button", {class: "quiet", onclick: () => { close(); action(); }}, label),
                 h("button", {class: "quiet", "aria-label": "Close this message", onclick: close}, "×"));
  document.getElementById("toasts").append(item);
  setTimeout(close, bad ? 12000 : 6000);
}

export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    toast(`${what} copied.`);
  } catch {
    showText(what, text); // no clipboard without TLS or permission: to be copied by hand
  }
}

/** A modal dialog, removed once it is closed. */
export function dialog(label, ...children) {
  const d = h("dialog", {"aria-label": label}, children,
              h("button", {class: "close quiet", "aria-label": "Close", onclick: () => d.close()}, "×"));
  d.addEventListener("close", () => d.remove());
  d.addEventListener("click", e => { if (e.target === d) d.close(); });
  document.body.append(d);
  d.showModal();
  return d;
}

export function showText(title, text) {
  const area = h("textarea", {readonly: true, rows: "8", class: "code", "aria-label": title}, text);
  dialog(title, h("h2", {}, title), area);
  area.select();
}

export function confirmed(question, label) {
  return new Promise(resolve => {
    let answer = false;
    const d = dialog(question, h("p", {}, question),
                     h("div", {class: "actions"},
                       h("button", {class: "danger", onclick: () => { answer = true; d.close(); }}, label),
                       h("button", {class: "quiet", onclick: () => d.close()}, "Keep it")));
    d.addEventListener("close", () => resolve(answer));
  });
}

export function download(blob, name) {
  const url = URL.createObjectURL(blob);
  const a = h("a", {href: url, download: name});
  a.click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

export function pngBlob(base64) {
  const binary = atob(base64), bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return new Blob([bytes], {type: "image/png"});
}

// ---- numbers for people

export const count = n => n === null || n === undefined ? "–" : Number(n).toLocaleString("en");
export const plural = (n, one, many = one + "s") => `${count(n)} ${Number(n) === 1 ? one : many}`;

export function si(n, unit = "") {
  const units = ["", "k", "M", "G", "T", "P"];
  let i = 0;
  for (n = Number(n); n >= 1000 && i < units.length - 1; i++) n /= 1000;
  return `${n >= 100 || i === 0 ? Math.round(n) : n.toPrecision(3)} ${units[i]}${unit}`.trim();
}

export function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  for (n = Number(n); n >= 1024 && i < units.length - 1; i++) n /= 1024;
  return `${i === 0 || n >= 100 ? Math.round(n) : n.toPrecision(3)} ${units[i]}`;
}

export function ms(n) {
  return n < 10 ? `${n.toFixed(1)} ms` : n < 1000 ? `${Math.round(n)} ms` : duration(n / 1000);
}

export function duration(s) {
  if (!(s >= 0)) return "–";
  if (s < 10) return `${s.toFixed(1)} s`;
  s = Math.round(s);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return s < 86400 ? `${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} min` : `${Math.floor(s / 86400)} d ${Math.floor(s / 3600) % 24} h`;
}

export const significant = (v, digits = 4) =>
  v === null || v === undefined || !Number.isFinite(v) ? "–" : v !== 0 && Math.abs(v) < 1e-3 ? v.toExponential(1) : String(Number(v.toPrecision(digits)));

export function when(text) {
  const date = new Date(text), today = new Date().toDateString() === date.toDateString();
  return today ? date.toLocaleTimeString("en-GB") : date.toLocaleString("en-GB", {dateStyle: "medium", timeStyle: "short"});
}

/** Calls f again and again while the view is shown and the tab is seen. Returns a function that ends it. */
export function poll(f, everyMs) {
  let timer, over = false;
  async function turn() {
    if (!document.hidden) await f().catch(() => {});
    if (!over) timer = setTimeout(turn, everyMs);
  }
  turn();
  return () => { over = true; clearTimeout(timer); };
}

export function debounce(f, waitMs) {
  let timer;
  return (...args) => { clearTimeout(timer); timer = setTimeout(() => f(...args), waitMs); };
}
