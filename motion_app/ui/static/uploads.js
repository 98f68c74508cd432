// gradio names every upload button "Click to upload or drop files", in English and whatever is
// written on it. Here each is named by its own label and by what is written on it.
const LANDING = "button.upload-container";

function plainText(node) {
  return node ? node.textContent.replace(/\s+/g, " ").trim() : "";
}

function nameUploads() {
  for (const button of document.querySelectorAll(LANDING)) {
    const label = plainText(button.closest(".block")?.querySelector("label[data-testid='block-label']"));
    const name = [label, plainText(button)].filter(Boolean).join(": ");
    if (name && button.getAttribute("aria-label") !== name) button.setAttribute("aria-label", name);
  }
}

let asked = false;
new MutationObserver(() => {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    nameUploads();
  });
}).observe(document.body, { childList: true, subtree: true });
nameUploads();

// A file that a box does not take is held back before gradio hears of it, and the page says why.
// Files beside it go on.
function wrongOf(box, files) {
  const kind = /takes-(\w+)/.exec(box.className)[1];
  const right = files.filter(({ name }) =>
    props.kinds[kind].some((ending) => name.toLowerCase().endsWith(ending)));
  const names = files.filter((file) => !right.includes(file)).map(({ name }) => name);
  if (names.length) trigger("refused", { kind, names });
  return names.length ? right : null;
}

function give(input, files) {
  const transfer = new DataTransfer();
  for (const file of files) transfer.items.add(file);
  input.files = transfer.files;
  if (files.length) input.dispatchEvent(new Event("change", { bubbles: true }));
}

document.body.addEventListener("change", (event) => {
  const box = event.target.matches("input[type=file]") && event.target.closest(".takes");
  const right = box && wrongOf(box, [...event.target.files]);
  if (!right) return;
  event.stopPropagation();
  give(event.target, right);
}, { capture: true });
document.body.addEventListener("drop", (event) => {
  const box = event.target.closest?.(".takes");
  const input = box?.querySelector("input[type=file]");
  const right = input && wrongOf(box, [...event.dataTransfer.files]);
  if (!right) return;
  event.preventDefault();
  event.stopPropagation();
  event.target.dispatchEvent(new DragEvent("dragleave", { bubbles: true })); // it is over
  give(input, input.multiple ? right : right.slice(0, 1));
}, { capture: true });
