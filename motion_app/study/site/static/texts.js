// The page's words, which the server wrote into it.

const TABLE = JSON.parse(document.getElementById("texts").textContent);

export function text(key, values = {}) {
  return TABLE[key].replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}
