// A folder of items becomes the ZIP file that the form takes: packed here, uncompressed, it goes the
// way of a chosen one, so that the server reads one kind of thing.
const chooser = element.querySelector("input");
const told = element.querySelector(".note");
const CRC = Uint32Array.from({ length: 256 }, (_, byte) => {
  let rest = byte;
  for (let bit = 0; bit < 8; bit += 1) rest = rest & 1 ? (rest >>> 1) ^ 0xedb88320 : rest >>> 1;
  return rest;
});

async function crcOf(file) {
  const reader = file.stream().getReader();
  let crc = ~0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    for (const byte of part.value) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
  }
  return ~crc >>> 0;
}

// Little-endian numbers, given as [value, bytes].
function numbers(...fields) {
  const bytes = fields.flatMap(([value, size]) =>
    Array.from({ length: size }, (_, place) => Math.floor(value / 2 ** (8 * place)) & 255));
  return Uint8Array.from(bytes);
}

async function packed(files) {
  const [parts, central] = [[], []];
  let offset = 0;
  for (const { path, file } of files) {
    const name = new TextEncoder().encode(path);
    const common = numbers(
      [20, 2], [0x0800, 2], [0, 2], [0, 2], [0x21, 2], // names in UTF-8, stored, of 1980
      [await crcOf(file), 4], [file.size, 4], [file.size, 4], [name.length, 2], [0, 2],
    );
    const start = numbers([0x04034b50, 4]);
    parts.push(start, common, name, file);
    central.push(
      numbers([0x02014b50, 4], [20, 2]), common,
      numbers([0, 2], [0, 2], [0, 2], [0, 4], [offset, 4]), name,
    );
    offset += start.length + common.length + name.length + file.size;
  }
  const size = central.reduce((sum, part) => sum + part.length, 0);
  const count = files.length;
  const end = numbers([0x06054b50, 4], [0, 4], [count, 2], [count, 2], [size, 4], [offset, 4], [0, 2]);
  return new Blob([...parts, ...central, end], { type: "application/zip" });
}

function tell(kind) {
  told.textContent = kind ? told.dataset[kind] : "";
  told.classList.toggle("warning", kind !== "" && kind !== "packing");
}

async function give(name, found) {
  const hidden = ({ path }) => path.split("/").some((part) => part.startsWith("."));
  const files = found.filter((item) => !hidden(item));
  if (!files.length) return tell("empty");
  tell("packing");
  try {
    const transfer = new DataTransfer();
    transfer.items.add(new File([await packed(files)], `${name}.zip`, { type: "application/zip" }));
    const input = document.querySelector("#study-file input[type=file]");
    input.files = transfer.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
    tell("");
  } catch {
    tell("unread"); // a file went, or is not ours to read
  }
}

element.querySelector("button").addEventListener("click", () => chooser.click());
chooser.addEventListener("change", () => {
  const found = [...chooser.files].map((file) => ({ path: file.webkitRelativePath, file }));
  give(found[0]?.path.split("/")[0] ?? "", found);
  chooser.value = "";
});

// a folder dropped on the field

async function filesOf(entry) {
  if (entry.isFile) {
    const file = await new Promise((done, failed) => entry.file(done, failed));
    return [{ path: entry.fullPath.slice(1), file }];
  }
  const reader = entry.createReader();
  const inside = [];
  for (;;) { // it lists some at a time
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (!some.length) break;
    inside.push(...some);
  }
  return (await Promise.all(inside.map(filesOf))).flat();
}

// Heard before the field hears it, which takes files alone.
listenWhileHere(document, "drop", (event) => {
  if (!event.target.closest?.("#study-file")) return;
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const folder = entries.find((entry) => entry.isDirectory);
  if (!folder) return;
  event.preventDefault();
  event.stopPropagation();
  tell("packing");
  Promise.all(entries.map(filesOf)).then((found) => give(folder.name, found.flat()), () => tell("unread"));
}, { capture: true });
