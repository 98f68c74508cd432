// The objects' rows. A field is sent when typing pauses or the field is left; until the server has
// heard it, it stands in the component's value, which Generate reads.
const PAUSE = 500; // ms
const unheard = new Map(); // field and object → the edit that is on its way
let serial = 0;
let turn = serial; // a new one each time a field gets the focus: what it undoes is one step
let timer = null;

function fieldName(field) {
  return `${field.dataset.field} ${field.dataset.object}`;
}

function settle() {
  props.value = unheard.size ? JSON.stringify([...unheard.values()]) : "";
}

function note(field) {
  serial += 1;
  unheard.set(fieldName(field), {
    kind: field.dataset.field,
    object: Number(field.dataset.object),
    text: field.value,
    serial,
    turn,
    sent: false,
  });
  settle();
}

function flush() {
  clearTimeout(timer);
  for (const edit of unheard.values()) {
    if (edit.sent) continue;
    edit.sent = true;
    act(edit);
  }
}

// the mirror behind a text field

// As the server looks phrases up: one white space is as good as another, and words of scripts that
// are written without spaces begin and end anywhere.
const UNSPACED = ["Han", "Hira", "Kana", "Bopo", "Thai", "Laoo", "Khmr", "Mymr"]
  .map((script) => `\\p{Script=${script}}`).join("");
const SPACED = `(?:(?![${UNSPACED}])[\\p{L}\\p{N}\\p{M}_])`;

function asRead(text) {
  return text.normalize("NFKC").trim().replace(/\s+/g, " ");
}

function patternOf(phrase) {
  const words = phrase.split(" ").map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  const [first, last] = [phrase.at(0), phrase.at(-1)].map((letter) =>
    new RegExp(`^${SPACED}`, "u").test(letter));
  return `${first ? `(?<!${SPACED})` : ""}${words.join("\\s+")}${last ? `(?!${SPACED})` : ""}`;
}

function pieces(text, marks) {
  marks = marks.map((mark) => ({ ...mark, phrase: asRead(mark.phrase) }));
  const phrases = [...new Set(marks.map((mark) => mark.phrase))].filter(Boolean);
  phrases.sort((one, other) => other.length - one.length);
  if (!phrases.length) return [[text, null]];
  const pattern = new RegExp(phrases.map(patternOf).join("|"), "gu");
  const found = [];
  const used = new Map();
  let end = 0;
  for (const match of text.matchAll(pattern)) {
    const phrase = asRead(match[0]);
    const owners = marks.filter((mark) => mark.phrase === phrase);
    const count = used.get(phrase) ?? 0;
    used.set(phrase, count + 1);
    found.push([text.slice(end, match.index), null], [match[0], owners[count] ?? null]);
    end = match.index + match[0].length;
  }
  return [...found, [text.slice(end), null]];
}

function reflect(field) {
  const label = field.closest(".mirrored");
  if (!label) return;
  const mirror = label.querySelector(".mirror");
  mirror.replaceChildren(...pieces(field.value, JSON.parse(label.dataset.marks)).map(
    ([text, mark]) => {
      if (!mark) return document.createTextNode(text);
      const node = document.createElement("mark");
      node.textContent = text;
      node.style.setProperty("--colour", mark.colour);
      return node;
    },
  ), document.createTextNode("\u200b"));
}

function showStrength(field) {
  field.parentElement.querySelector("output").textContent = Number(field.value).toFixed(2);
}

// drawing

function near(focused) {
  const row = focused.closest(".object-row");
  const rows = [...element.querySelectorAll(".object-row")];
  const at = rows.indexOf(row);
  return () => {
    const left = element.querySelectorAll(".object-row .refine");
    if (at < 0) return element.querySelector(".prompt textarea, .prompt button");
    return left[Math.min(at, left.length - 1)] ?? document.querySelector(".stage-frame");
  };
}

// Within the list alone: the page stays where the person is.
let selectedLast = null;
function showSelected() {
  const row = element.querySelector(".object-row.selected");
  const selected = row?.dataset.object ?? null;
  if (row && selected !== selectedLast) {
    const list = row.parentElement;
    const [inner, outer] = [row.getBoundingClientRect(), list.getBoundingClientRect()];
    if (inner.top < outer.top) list.scrollTop += inner.top - outer.top;
    else if (inner.bottom > outer.bottom) list.scrollTop += inner.bottom - outer.bottom;
  }
  selectedLast = selected;
}

function redraw() {
  if (overtaken(props.markup)) return;
  const heard = Number(/data-heard="(\d+)"/.exec(props.markup)?.[1] ?? 0);
  for (const [name, edit] of unheard) if (edit.serial <= heard) unheard.delete(name);
  settle();
  draw(mount, props.markup, { keep: (field) => unheard.has(fieldName(field)), near });
  for (const field of element.querySelectorAll("textarea")) reflect(field);
  awaitPreviews(mount);
  showSelected();
  drawLessons();
}

// what a person does

element.addEventListener("focusin", (event) => {
  if (event.target.dataset.field) turn = serial += 1;
});
element.addEventListener("input", (event) => {
  const field = event.target;
  if (!field.dataset.field) return;
  if (field.type === "range") showStrength(field);
  reflect(field);
  note(field);
  clearTimeout(timer);
  timer = setTimeout(flush, PAUSE);
});
element.addEventListener("change", flush);
element.addEventListener("focusout", flush);
element.addEventListener("keydown", (event) => {
  const field = event.target;
  if (event.isComposing) return; // Enter ends a word of an input method, not the sentence
  if (event.key === "Enter" && field.dataset.field && field.type !== "range") {
    event.preventDefault(); // a sentence is one line
    flush();
  }
  if (event.key === "Escape") {
    const open = field.closest("details[open]");
    if (open) {
      open.open = false;
      open.querySelector("summary").focus();
    }
  }
  const row = field.closest(".object-row");
  if (row && event.altKey && /^Arrow(Up|Down)$/.test(event.key)) {
    event.preventDefault();
    flush();
    const step = event.key === "ArrowUp" ? -1 : 1;
    act({ kind: "move", object: Number(row.dataset.object), step });
  }
  if (field.matches(".swatch")) roam(event, [...field.parentElement.children], { columns: 4 });
});
element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button || button.closest("dialog, .clip") || !usable(button)) return;
  if (button.dataset.local === "cards") openCards(button);
  if (button.dataset.local === "clip") pickClip(button.closest("[data-object]").dataset.object);
  if (!button.dataset.act) return;
  flush();
  const { act: kind, step, slot, name } = button.dataset;
  const object = button.closest("[data-object]")?.dataset.object;
  const pressed = button.getAttribute("aria-pressed") === "true";
  if (kind === "clip_example") brought.add(object);
  act({ kind: kind === "select" && pressed ? "fresh" : kind, object, step, slot, name });
  const open = button.closest("details");
  if (open) {
    open.querySelector("summary").focus();
    open.open = false;
  }
});
listenWhileHere(document, "pointerdown", (event) => {
  for (const open of element.querySelectorAll(".colours[open]")) {
    if (!open.contains(event.target)) open.open = false;
  }
});
watch("markup", redraw);
redraw();
