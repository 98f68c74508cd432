// Clips for objects: chosen, dropped on a row, on the cards or on the picture; each is uploaded and
// then given to its object. And the clips of what is still to be learned, in the rows.
const clipDialog = element.querySelector(".clip-dialog");
const picker = document.createElement("input");
picker.type = "file";
picker.className = "clip-picker";
picker.hidden = true;
picker.accept = props.endings.join(",");
element.append(picker);
const brought = new Set(); // the objects whose panel is to open when it comes
let wanted = null; // the object that the picker is open for
let waiting = null; // a clip that came before any object: the first one gets it

function pickClip(object) {
  wanted = object;
  picker.value = "";
  picker.click();
}
picker.addEventListener("change", () => giveClip(wanted, picker.files[0]));

function rowOf(object) {
  return element.querySelector(`.object-row[data-object="${object}"]`);
}

async function giveClip(object, file) {
  const row = rowOf(object);
  if (!file || !row) return;
  row.dataset.bringing = "yes";
  brought.add(object);
  try {
    const own = new File([file], `${Date.now()}-${file.name}`, { type: file.type }); // goes once it is read
    const { path } = await upload(own);
    act({ kind: "clip", object, path, name: file.name });
  } catch {
    act({ kind: "clip", object, path: "", name: file.name }); // the server says it in words
  }
}

// drops

function clipOf(transfer) {
  const picture = (file) => /^image\//.test(file.type) && !/gif|apng/.test(file.type);
  return [...(transfer?.files ?? [])].find((file) => /^video\//.test(file.type)
    || (!picture(file) && props.endings.some((ending) => file.name.toLowerCase().endsWith(ending))));
}

function targetOf(event) {
  if (event.target.closest?.(".motion-dialog")) return opener?.object;
  return event.target.closest?.(".object-row")?.dataset.object;
}

element.addEventListener("dragover", (event) => {
  const object = targetOf(event);
  for (const row of element.querySelectorAll(".object-row")) {
    row.classList.toggle("drop-here", row.dataset.object === object);
  }
  if (object !== undefined && [...event.dataTransfer.types].includes("Files")) event.preventDefault();
});
element.addEventListener("dragleave", (event) => {
  event.target.closest?.(".object-row")?.classList.remove("drop-here");
});
element.addEventListener("drop", (event) => {
  const object = targetOf(event);
  const [file] = event.dataTransfer.files;
  if (object === undefined || !file) return;
  event.preventDefault();
  rowOf(object)?.classList.remove("drop-here");
  if (sheet.open) sheet.close();
  giveClip(object, clipOf(event.dataTransfer) ?? file); // what is no clip is refused in words
});

// A video on the picture: for which of the objects is it?
listenWhileHere(document, "clip-dropped", (event) => {
  const rows = [...element.querySelectorAll(".object-row")];
  const targets = clipDialog.querySelector(".clip-targets");
  targets.replaceChildren(...rows.map((row) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "tool";
    button.style.cssText = row.style.cssText;
    button.textContent = row.querySelector(".badge").getAttribute("aria-label");
    button.addEventListener("click", () => {
      clipDialog.close();
      giveClip(row.dataset.object, event.detail);
    });
    return button;
  }));
  clipDialog.querySelector(".note").hidden = rows.length > 0;
  waiting = rows.length ? null : event.detail;
  clipDialog.showModal();
  const selected = rows.findIndex((row) => row.classList.contains("selected"));
  targets.children[Math.max(0, selected)]?.focus();
});
clipDialog.addEventListener("click", (event) => {
  const close = event.target.closest('[data-local="close-clip"]');
  if (close || event.target === clipDialog) clipDialog.close();
});

// the clips in the rows

let unanswered = 0; // what was chosen and is not heard yet

const clips = clipEditor(mount, {
  choose: (card, chosen, pointed) => {
    unanswered += 1;
    const { object } = card.closest("[data-object]").dataset;
    const { start, stop, box, mover } = chosen;
    act({ kind: pointed ? "clip_point" : "clip_choose", object, start, stop, box, mover });
  },
  remove: (card) => {
    act({ kind: "motion", object: card.closest("[data-object]").dataset.object, motion: "" });
  },
});

// What was just brought is open, and what was before it makes room.
function openBrought() {
  for (const lesson of mount.querySelectorAll(".lesson")) {
    const row = lesson.closest(".object-row");
    if (!brought.delete(row.dataset.object)) continue;
    for (const other of mount.querySelectorAll(".lesson")) other.open = other === lesson;
    bringIntoView(row);
  }
}

function giveWaiting() {
  const row = waiting && element.querySelector(".object-row");
  if (!row) return;
  const clip = waiting;
  waiting = null;
  giveClip(row.dataset.object, clip);
}

function drawLessons() {
  openBrought();
  giveWaiting();
  for (const place of mount.querySelectorAll(".preview-clip")) {
    const card = place.closest(".object-row").querySelector(".clip");
    const [columns, rows] = [10, Math.ceil(Number(card.dataset.count) / 10)];
    const frame = Number(card.querySelector(".clip-start").value);
    place.style.backgroundImage = `url(${props.sheets[place.dataset.sheet] ?? ""})`;
    place.style.backgroundSize = `${columns * 100}% ${rows * 100}%`;
    place.style.backgroundPosition = `${(100 * (frame % columns)) / (columns - 1)}% `
      + `${rows > 1 ? (100 * Math.floor(frame / columns)) / (rows - 1) : 0}%`;
  }
  for (const card of mount.querySelectorAll(".clip")) {
    const address = props.sheets[card.dataset.key];
    const stage = card.querySelector(".clip-stage");
    if (address && !stage.style.backgroundImage) stage.style.backgroundImage = `url(${address})`;
    if (!unanswered) clips.heed(card);
  }
  clips.drawAll();
}

whenAnswered((all) => {
  unanswered = all ? 0 : Math.max(0, unanswered - 1);
  for (const row of element.querySelectorAll("[data-bringing]")) delete row.dataset.bringing;
});
watch("sheets", drawLessons);
