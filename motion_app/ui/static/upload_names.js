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
