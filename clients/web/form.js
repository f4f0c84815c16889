// form.js: a form from a JSON Schema: objects become groups, fields say their help, range and default.
// The value holds only what was set: what is empty keeps the daemon's default.
import {h, option} from "./dom.js";

const typeOf = s => [].concat(s.type || "string").filter(t => t !== "null")[0];
const shown = v => Array.isArray(v) ? v.join(", ") : v === undefined || v === null ? "" : String(v);

function read(text, s) {
  const scalar = (t, type) => type === "integer" || type === "number" ? (t.trim() !== "" && Number.isFinite(Number(t)) ? Number(t) : t) : t;
  if (typeOf(s) === "array") return text.split(/[,\s]+/).filter(Boolean).map(t => scalar(t, typeOf(s.items)));
  return scalar(text, typeOf(s));
}

export class SchemaForm {
  /** onchange(): something was set. first: the groups that are open. */
  constructor(schema, value, {onchange = () => {}, first = [], omit = []} = {}) {
    Object.assign(this, {schema, value, onchange, errors: new Map(), inputs: new Map()});
    const properties = Object.entries(schema.properties).filter(([name]) => !omit.includes(name)), groups = properties.filter(([, s]) => s.properties), plain = properties.filter(([, s]) => !s.properties);
    this.element = h("div", {class: "schema"},
      this.group("", "General", "", plain, true),
      groups.map(([name, s]) => this.group(name, name, s.description, Object.entries(s.properties), first.includes(name))));
  }

  group(path, title, help, fields, open) {
    const g = h("details", {class: "group", open}, h("summary", {}, h("strong", {}, title.replaceAll("_", " ")), help && title !== "General" ? h("span", {class: "muted"}, ` ${help}`) : null),
                h("div", {class: "fields"}, fields.map(([name, s]) => this.field(path ? `${path}.${name}` : name, name, s))));
    return g;
  }

  get(path) {
    return path.split(".").reduce((v, k) => v?.[k], this.value);
  }

  set(path, v) {
    const keys = path.split("."), last = keys.pop();
    const at = keys.reduce((o, k) => o[k] = o[k] && typeof o[k] === "object" ? o[k] : {}, this.value);
    if (v === undefined) delete at[last];
    else at[last] = v;
    this.showProblem(null);
    this.onchange();
  }

  input(path, id, s) {
    const now = this.get(path), common = {id, name: path, "aria-describedby": `${id}-help ${id}-error`};
    if (typeOf(s) === "boolean") {
      const box = h("input", {...common, type: "checkbox", checked: Boolean(now ?? s.default), onchange: () => this.set(path, box.checked)});
      return box;
    }
    if (s.enum) {
      const choices = s.enum.filter(v => v !== null);
      const select = h("select", {...common, value: shown(now), onchange: () => this.set(path, select.value === "" ? undefined : select.value)},
                       option("", s.default ? `default (${s.default})` : "default"), choices.map(v => option(v)));
      return select;
    }
    const number = ["integer", "number"].includes(typeOf(s)) && !Array.isArray(s.type);
    const text = h("input", {...common, type: number ? "number" : "text", step: typeOf(s) === "integer" ? "1" : "any", min: s.minimum, max: s.maximum, value: shown(now), placeholder: shown(s.default), autocomplete: "off", spellcheck: "false",
                             oninput: () => this.set(path, text.value.trim() === "" ? undefined : read(text.value, s))});
    return text;
  }

  field(path, name, s) {
    const id = `c-${path.replaceAll(".", "-")}`, input = this.input(path, id, s), error = h("p", {class: "error", id: `${id}-error`, hidden: true});
    this.errors.set(path, error);
    this.inputs.set(path, input);
    return h("div", {class: "field"}, h("label", {htmlFor: id}, name.replaceAll("_", " ")), input,
             h("p", {class: "muted help", id: `${id}-help`}, s.description || ""), error);
  }

  /** Puts a problem beside its field, "config.dataset.path", and opens the group. Returns whether it had a place. */
  showProblem(problem) {
    for (const e of this.errors.values()) e.hidden = true;
    for (const i of this.inputs.values()) i.removeAttribute("aria-invalid");
    const path = problem?.field?.replace(/^config\.?/, "").replace(/\[.*$/, ""), error = this.errors.get(path);
    if (!error) return false;
    error.textContent = problem.detail + (problem.nearest ? ` Did you mean ${problem.nearest}?` : "");
    error.hidden = false;
    const input = this.inputs.get(path);
    input.setAttribute("aria-invalid", "true");
    input.closest("details").open = true;
    input.focus();
    return true;
  }
}
