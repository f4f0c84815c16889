// curl.js: the same request as a line of shell.
import {address, key} from "./api.js";

const quote = text => /^[A-Za-z0-9_./:=@%+-]+$/.test(text) ? text : `'${String(text).replaceAll("'", "'\\''")}'`;

/** curl for a request; body: an object; output: a file's name. A key is named, never shown. */
export function curl(method, path, {body, headers = {}, output, stream} = {}) {
  const words = ["curl"];
  if (stream) words.push("-N");
  if (method !== "GET") words.push("-X", method);
  words.push(quote(address(path)));
  for (const [name, value] of Object.entries(headers)) words.push("-H", quote(`${name}: ${value}`));
  if (key()) words.push("-H", '"Authorization: Bearer $DDIMD_KEY"');
  if (typeof body === "string") words.push("--data-binary", quote(body));
  else if (body) words.push("-H", quote("Content-Type: application/json"), "-d", quote(JSON.stringify(body).replace(/("seed":)"(\d+)"/, "$1$2")));
  if (output) words.push("-o", quote(output));
  return words.join(" ");
}

/** The shortest curl for a generation: its fields in the query. */
export function generateCurl(body) {
  const query = new URLSearchParams(Object.entries(body).map(([k, v]) => [k, Array.isArray(v) ? v.join(",") : String(v)]));
  return curl("POST", `generate?${query.toString().replaceAll("%2C", ",")}`, {output: "ddimd.png"});
}
