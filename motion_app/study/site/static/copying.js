// Copying, also where the browser gives no clipboard: away from https and this machine.

import { pause } from "./clips.js";
import { text } from "./texts.js";

const SHOWN_MS = 3000;

/** Copy what `field` holds; `button` says for a moment whether that worked. */
export async function copyFrom(field, button) {
  const label = button.textContent;
  button.disabled = true; // a second click would take the note for the label
  button.textContent = text((await copied(field)) ? "copy.done" : "copy.by_hand");
  await pause(SHOWN_MS);
  button.textContent = label;
  button.disabled = false;
}

async function copied(field) {
  try {
    await navigator.clipboard.writeText(field.value || field.textContent);
    return true;
  } catch {
    if (field.select) field.select();
    else getSelection().selectAllChildren(field);
    return document.execCommand("copy"); // what is selected stays so, for the keyboard
  }
}
