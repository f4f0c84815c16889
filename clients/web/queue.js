// queue.js: the live batch: whose images share the device's steps, who waits, and how long steps take.
import {capabilities, get, metrics, own} from "./api.js";
import {Figure} from "./charts.js";
import {Rows, count, fact, fill, h, ms, notice, plural, poll, problemNotice, significant} from "./dom.js";

const WINDOW = 120; // turns of the curve
let root, stop = () => {}, parts, points, past, begun;

/** One cell for each image of a running request, filled as far as the request is. */
function lanes(requests) {
  const running = requests.filter(r => r.state === "running"), cells = [];
  running.forEach((r, i) => {
    const part = r.done_lane_steps / r.total_lane_steps, shown = Math.min(r.images, 256);
    for (let k = 0; k < shown; k++) {
      const cell = h("span", {class: `lane ${own.has(r.id) ? "mine" : i % 2 ? "odd" : "even"}`, title: `${r.id}: ${Math.round(100 * part)} %`});
      cell.style.setProperty("--part", part);
      cells.push(cell);
    }
  });
  return cells;
}

function requestCells(r, kept) {
  const mine = own.get(r.id);
  kept.who = kept.who || (mine ? h("span", {class: "mine"}, h("strong", {}, "yours"), " ", mine.label) : h("code", {title: r.id}, r.id.slice(0, 16)));
  kept.bar = kept.bar || h("progress", {max: 1, "aria-label": `Progress of ${r.id}`});
  kept.bar.value = r.done_lane_steps / r.total_lane_steps;
  kept.cancel = kept.cancel || (mine ? h("button", {class: "danger small", onclick: () => mine.cancel()}, "Cancel") : h("span"));
  return [kept.who, r.model, count(r.images), count(r.steps), r.priority, r.state === "running" ? kept.bar : r.images_ahead ? `after ${plural(r.images_ahead, "image")}` : "joins next",
          ms(r.queued_ms), r.running_ms ? `${ms(r.running_ms)} ago` : "–", ms(r.expected_ms), kept.cancel];
}

async function turn() {
  let q, m;
  try {
    [q, m] = await Promise.all([get("queue"), metrics()]);
  } catch (error) {
    fill(parts.note, problemNotice(error));
    return;
  }
  const now = performance.now() / 1000, {value} = m;
  const steps = value("ddimd_steps_total"), laneSteps = value("ddimd_lane_steps_total"), step = past ? steps - past.steps : 0;
  begun = begun || now;
  points.push({x: now - begun, lanes: step ? (laneSteps - past.laneSteps) / step : 0, waiting: q.requests.filter(r => r.state !== "running").length});
  points = points.slice(-WINDOW);
  const stepMs = step ? 1000 * (value("ddimd_step_seconds_sum") - past.seconds) / step : null;
  const waits = value("ddimd_queue_wait_seconds_count"), wait = waits ? 1000 * value("ddimd_queue_wait_seconds_sum") / waits : null;
  past = {steps, laneSteps, seconds: value("ddimd_step_seconds_sum")};
  fill(parts.facts, fact("On the device", plural(q.lanes, "image")), fact("Requests", count(q.requests_total)), fact("Images left", count(q.images)), fact("Row steps left", count(q.row_steps)),
       fact("A step now", stepMs === null ? "idle" : ms(stepMs)), fact("Mean queue wait", wait === null ? "–" : ms(wait)));
  fill(parts.lanes, q.requests.some(r => r.state === "running") ? lanes(q.requests) : h("p", {class: "muted"}, "The device is idle. Requests that arrive join at its next step."));
  parts.rows.show(q.requests);
  fill(parts.note, q.requests.length ? q.requests_total > q.requests.length ? `The oldest ${q.requests.length} of ${count(q.requests_total)} are listed.` : ""
                                     : notice("Nothing is queued", "Run something on the Generate page, or with curl, and watch it here.", h("a", {class: "button", href: "#generate"}, "Generate")));
  parts.live.show([{label: "images a step", data: points.map(p => ({x: p.x, y: p.lanes}))}, {label: "requests waiting", data: points.map(p => ({x: p.x, y: p.waiting})), tone: "ink", alpha: 0.6}]);
}

async function measured() {
  const {models} = await capabilities(), resident = models.filter(m => m.step_times?.length);
  parts.times.show(resident.slice(0, 4).map((m, i) => ({label: `${m.name} (up to ${m.max_rows} rows)`, data: m.step_times.map(t => ({x: t.rows, y: 1000 * t.seconds})), tone: i ? "ink" : "accent", points: true, joined: true, alpha: i ? 1 - 0.25 * i : undefined})));
  const best = resident.flatMap(m => m.step_times.map(t => t.rows / t.seconds));
  parts.best.textContent = best.length ? `Measured when the model was loaded; at best ${significant(Math.max(...best), 3)} image steps a second.` : "No model is resident yet.";
}

export async function create(element) {
  root = element;
  parts = {facts: h("dl", {class: "facts big"}), lanes: h("div", {class: "lanes", role: "img", "aria-label": "Images on the device"}), note: h("div"), best: h("p", {class: "muted"}),
           live: new Figure("Images that share a step, and requests that wait", {x: "seconds"}), times: new Figure("Time of a step by its rows, in ms", {x: "rows of the batch"})};
  parts.rows = new Rows(["Request", "Model", "Images#", "Steps#", "Priority", "Progress", "Waited#", "Joined#", "Ends in#", ""], requestCells);
  points = [];
  fill(root, h("div", {class: "bar"}, h("h1", {}, "Queue"), h("span", {class: "muted"}, "Requests join and leave the batch between steps")), parts.facts,
       h("section", {class: "panel"}, h("h2", {}, "The batch"), parts.lanes), parts.rows.element, parts.note, h("div", {class: "charts"}, parts.live.element, h("div", {}, parts.times.element, parts.best)));
  return true;
}

export async function show() {
  hide();
  stop = poll(turn, 500);
  await measured();
}

export function hide() {
  stop();
  stop = () => {};
}
export function cancel() {
  const mine = [...own.values()];
  mine.forEach(r => r.cancel());
  return mine.length > 0;
}
