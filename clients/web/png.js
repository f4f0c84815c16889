// png.js: the text chunk that a PNG of the daemon's carries.

/** The recipe in a PNG file, or an Error that says what is missing. seed stays text. */
export async function recipeOf(file) {
  const data = new DataView(await file.arrayBuffer());
  if (data.byteLength < 8 || data.getUint32(0) !== 0x89504e47) throw new Error(`${file.name || "The file"} is not a PNG file.`);
  for (let at = 8; at + 12 <= data.byteLength;) {
    const length = data.getUint32(at), kind = data.getUint32(at + 4);
    if (at + 12 + length > data.byteLength) break;
    if (kind === 0x74455874) { // tEXt
      const text = new TextDecoder("latin1").decode(new Uint8Array(data.buffer, at + 8, length));
      const [keyword, value] = [text.slice(0, text.indexOf("\0")), text.slice(text.indexOf("\0") + 1)];
      if (keyword === "ddimd") return JSON.parse(value.replace(/("seed":\s*)(\d+)/, '$1"$2"'));
    }
    at += 12 + length;
  }
  throw new Error(`${file.name || "The file"} was not made by ddimd: it has no text chunk “ddimd”.`);
}
