// api.js: the daemon's HTTP interface: requests, problems, events over fetch, the key of this tab.

const KEY = "ddimd.key";

/** What the daemon answered instead (RFC 9457); .field names the field at fault. */
export class Problem extends Error {
  constructor(status, document) {
    super(document.detail || document.title || `The daemon answered ${status}.`);
    Object.assign(this, {name: "Problem", status}, document);
  }
}

export const key = () => sessionStorage.getItem(KEY) || "";
export function setKey(value) {
  if (value) sessionStorage.setItem(KEY, value);
  else sessionStorage.removeItem(KEY);
}

/** Paths are relative to the page, so that it works behind a proxy's prefix too. */
export const address = path => new URL(path.replace(/^\//, ""), document.baseURI).href;

/** A seed has more digits than a number here keeps: it is text. */
export const parse = text => JSON.parse(text.replace(/("seed":\s*)(\d+)/g, '$1"$2"'));

async function problemOf(response) {
  const text = await response.text();
  let document = {};
  try { document = JSON.parse(text); } catch { document = {detail: text.slice(0, 200)}; }
  if (response.status === 401) dispatchEvent(new CustomEvent("ddimd-key", {detail: {}}));
  return new Problem(response.status, document);
}

/** One request. body: an object (sent as JSON) or a Blob. Throws Problem, or TypeError where the daemon is not there. */
export async function request(method, path, {body, accept = "application/json", headers = {}, signal} = {}) {
  const all = {Accept: accept, ...headers};
  if (key()) all.Authorization = `Bearer ${key()}`;
  if (body instanceof Blob) all["Content-Type"] = body.type;
  else if (body) all["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(address(path), {method, headers: all, signal, body: body && !(body instanceof Blob) ? JSON.stringify(body) : body});
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, {title: "The daemon does not answer", detail: "It may be stopped or starting again; this page goes on once it is back."});
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

export const get = async (path, options) => parse(await (await request("GET", path, options)).text());
export async function post(path, body, options) {
  const text = await (await request("POST", path, {body, ...options})).text();
  return text ? parse(text) : null;
}
export const remove = path => request("DELETE", path);

// ---- server-sent events

function eventOf(block) {
  const event = {name: "message", data: "", id: undefined};
  for (const line of block.split("\n")) {
    const [, field, value] = /^(\w+): ?(.*)$/.exec(line) || [];
    if (field === "event") event.name = value;
    else if (field === "data") event.data += (event.data ? "\n" : "") + value;
    else if (field === "id") event.id = value;
  }
  return event;
}

/** Reads a stream of events to its end. on(name, value, id). Returns the response's status. */
export async function events(method, path, on, options = {}) {
  const response = await request(method, path, {...options, accept: "text/event-stream"});
  if (response.status === 204) return 204;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = "";;) {
    const {value, done} = await reader.read();
    if (done) return response.status;
    const blocks = (text + value).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const event = eventOf(block);
      if (event.data) on(event.name, parse(event.data), event.id);
    }
  }
}

/** The same for a stream that may break: goes on after the last event's id, until there is nothing more to come (204). */
export async function follow(path, on, signal, state = () => {}) {
  let last = "";
  for (let wait = 500; !signal.aborted;) {
    try {
      const status = await events("GET", path, (name, value, id) => { last = id || last; wait = 500; on(name, value, id); },
                                  {signal, headers: last ? {"Last-Event-ID": last} : {}});
      state(true);
      if (status === 204) return;
    } catch (error) {
      if (error.name === "AbortError" || (error.status && error.status < 500)) return;
      state(false);
    }
    await new Promise(resolve => setTimeout(resolve, wait));
    wait = Math.min(2 * wait, 10000);
  }
}

// ---- generations of this tab

/** id -> {label, begun, cancel()}: the queue's view knows its own by them. */
export const own = new Map();
const tab = crypto.getRandomValues(new Uint32Array(1))[0].toString(16);
let serial = 0;

/** Runs a generation. on: {progress(done, total), preview(image, step, png)}. Resolves to the result. */
export async function generate(body, label, on = {}, signal) {
  const id = `web-${tab}-${++serial}`, abort = new AbortController();
  if (signal) signal.addEventListener("abort", () => abort.abort());
  own.set(id, {label, begun: Date.now(), cancel: () => abort.abort()});
  let result, problem;
  try {
    if (signal && signal.aborted) throw new DOMException("cancelled", "AbortError");
    await events("POST", "generate", (name, value) => {
      if (name === "progress") on.progress?.(value.done, value.total);
      else if (name === "preview") on.preview?.(value.image, value.step, value.png);
      else if (name === "result") result = value;
      else if (name === "error") problem = value;
    }, {body, signal: abort.signal, headers: {"X-Request-Id": id}});
  } finally {
    own.delete(id);
  }
  if (problem) throw new Problem(problem.status, problem);
  if (!result) throw new Problem(0, {title: "The answer broke off", detail: "The connection was closed before the images were ready; run it again."});
  return result;
}

/** The daemon's metrics: {text, all: [{name, labels, value}], value(name, labels)}. */
export async function metrics() {
  const text = await (await request("GET", "metrics", {accept: "text/plain"})).text();
  const all = text.split("\n").filter(l => l && l[0] !== "#").map(line => {
    const [, name, inner = "", value] = /^(\w+)(?:\{(.*)\})? (\S+)$/.exec(line) || [];
    return {name, labels: Object.fromEntries([...inner.matchAll(/(\w+)="([^"]*)"/g)].map(m => [m[1], m[2]])), value: Number(value)};
  });
  return {text, all, value: (name, labels = {}) => all.find(s => s.name === name && Object.entries(labels).every(([k, v]) => s.labels[k] === v))?.value ?? 0};
}

// ---- what hardly changes

let documentPromise;
/** The OpenAPI document, read once. */
export function openapi() {
  documentPromise = documentPromise || get("openapi.json").catch(error => { documentPromise = null; throw error; });
  return documentPromise;
}
export async function schema(name) {
  return (await openapi()).components.schemas[name];
}
export const capabilities = () => get("capabilities");
