// Draws the server's HTML into a node by changing what is there: focus, open details, and what is
// being typed stay. Children with the same data-key are the same thing, wherever they stand; nodes
// with data-own belong to the page's scripts once they are there.
const mount = element.querySelector(".mount");

function keyOf(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.dataset.key : undefined;
}

function sameKind(one, other) {
  return one.nodeType === other.nodeType && one.nodeName === other.nodeName
    && keyOf(one) === keyOf(other);
}

function morphChildren(now, wanted, keep) {
  const known = new Map();
  for (const child of now.childNodes) if (keyOf(child)) known.set(keyOf(child), child);
  let place = now.firstChild;
  for (const child of [...wanted.childNodes]) {
    let match = keyOf(child) ? known.get(keyOf(child)) : place;
    if (match && (!sameKind(match, child) || match.parentNode !== now)) match = undefined;
    if (!match) {
      now.insertBefore(child, place);
      continue;
    }
    if (match !== place) now.insertBefore(match, place);
    place = match.nextSibling;
    morphNode(match, child, keep);
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

function morphNode(now, wanted, keep) {
  if (now.nodeType !== Node.ELEMENT_NODE) {
    if (now.nodeValue !== wanted.nodeValue) now.nodeValue = wanted.nodeValue;
    return;
  }
  if ("own" in now.dataset) return;
  for (const { name } of [...now.attributes]) {
    const stays = name === "open" && "open" in now.dataset;
    if (!wanted.hasAttribute(name) && !stays) now.removeAttribute(name);
  }
  for (const { name, value } of [...wanted.attributes]) {
    if (now.getAttribute(name) !== value) now.setAttribute(name, value);
  }
  if (/^(INPUT|TEXTAREA)$/.test(now.tagName)) {
    if (now.type === "radio") now.checked = wanted.hasAttribute("checked");
    else if (!keep(now)) {
      const value = wanted.getAttribute("value") ?? "";
      if (now.value !== value) now.value = value;
    }
    return;
  }
  morphChildren(now, wanted, keep);
}

// Where the focused thing went, something near it takes the focus: the keyboard is never lost.
function draw(node, html, { keep = () => false, near = () => null } = {}) {
  const wanted = document.createElement("template");
  wanted.innerHTML = html;
  const focused = node.contains(document.activeElement) ? document.activeElement : null;
  const around = focused && near(focused);
  morphChildren(node, wanted.content, keep);
  if (!focused || document.activeElement === focused) return;
  const next = focused.isConnected ? focused : around?.();
  next?.focus({ preventScroll: focused.isConnected });
}

// An answer that a newer one has overtaken is not drawn.
let drawnLast = -1;
function overtaken(html) {
  const number = Number(/data-drawn="(\d+)"/.exec(html)?.[1] ?? 0);
  if (number < drawnLast) return true;
  drawnLast = number;
  return false;
}

// What was found wrong before this is what it may mend: canvas.js takes that away once it is heard.
function act(action) {
  for (const mistake of document.querySelectorAll("#status .mistake")) mistake.dataset.met = "yes";
  trigger("act", { action });
}

function usable(button) {
  return button && button.getAttribute("aria-disabled") !== "true";
}

function typing() {
  const field = document.activeElement;
  return document.querySelector("dialog[open]") !== null
    || (field && (field.isContentEditable || /^(TEXTAREA|SELECT)$/.test(field.tagName)
      || (field.tagName === "INPUT" && !/^(range|radio|checkbox|button)$/.test(field.type))));
}

// Arrow keys within a group of which one button at a time is in the order of Tab.
function roam(event, buttons, { columns = 1 } = {}) {
  const at = buttons.indexOf(document.activeElement);
  if (at < 0) return false;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
  let to = null;
  if (event.key in steps) to = at + steps[event.key];
  else if (event.key === "Home") to = 0;
  else if (event.key === "End") to = buttons.length - 1;
  if (to === null) return false;
  event.preventDefault();
  to = Math.min(Math.max(to, 0), buttons.length - 1);
  buttons.forEach((button, k) => { button.tabIndex = k === to ? 0 : -1; });
  buttons[to].focus();
  return true;
}

// Hears of each answer to an action of this panel, and whether it stands for all that was under way.
function whenAnswered(listener) {
  listenWhileHere(document, "scene-answered", ({ detail: panel }) => {
    if (!panel || element.closest(`#${panel}`)) listener(!panel);
  });
}

function listenWhileHere(target, name, listener, options) {
  const heard = (event) => {
    if (element.isConnected) listener(event);
    else target.removeEventListener(name, heard, options);
  };
  target.addEventListener(name, heard, options);
}
