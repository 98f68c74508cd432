// The motions as cards in a dialog: search, arrow keys, and previews that come when they are seen.
const sheet = element.querySelector(".motion-dialog");
const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
const pictures = new Map(); // motion's digest → promise of its preview's address
const line = []; // previews that wait for their turn
let running = 0;
let opener = null;
let whose = "";

function next() {
  if (running >= 3 || !line.length) return;
  running += 1;
  const { digest, resolve } = line.shift();
  server.preview({ digest, still }).then(resolve, () => resolve("")).finally(() => {
    running -= 1;
    next();
  });
  next();
}

function picture(digest) {
  if (!pictures.has(digest)) {
    pictures.set(digest, new Promise((resolve) => {
      line.push({ digest, resolve });
      next();
    }));
  }
  return pictures.get(digest);
}

async function fill(place) {
  const address = await picture(place.dataset.preview);
  if (!address || place.firstChild) return;
  const image = document.createElement("img");
  image.src = address;
  image.alt = "";
  place.append(image);
}

const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    fill(target);
  }
}, { rootMargin: "120px" });

function awaitPreviews(node) {
  for (const place of node.querySelectorAll(".preview[data-preview]:empty")) seen.observe(place);
}

function cards() {
  return [...sheet.querySelectorAll(".card:not([hidden])")];
}

function columns() {
  const tops = cards().map((card) => card.offsetTop);
  return Math.max(1, tops.filter((top) => top === tops[0]).length);
}

function sift() {
  const typed = sheet.querySelector("input[type=search]").value;
  for (const card of sheet.querySelectorAll(".card")) {
    card.hidden = !(hasWords(card, typed) && isWhose(card, whose));
  }
  pressWhose(sheet, whose);
  const none = cards().length === 0;
  sheet.querySelector(".cards-none").hidden = !none;
  const learning = sheet.querySelector('.card[data-local="clip"]');
  if (learning) learning.hidden = typed !== "" && !none; // what is not there can be learned
  cards().forEach((card, k) => { card.tabIndex = k === 0 ? 0 : -1; });
}

function openCards(button) {
  opener = { object: button.closest("[data-object]").dataset.object };
  const title = sheet.querySelector("[data-title]");
  title.textContent = title.dataset.title.replace("{number}", button.dataset.number);
  sheet.style.cssText = button.closest(".object-row").style.cssText;
  sheet.querySelector("input[type=search]").value = "";
  sift();
  for (const card of sheet.querySelectorAll(".card")) {
    const chosen = card.dataset.name === button.dataset.motion;
    card.setAttribute("aria-selected", String(chosen));
  }
  sheet.showModal();
  const chosen = sheet.querySelector('.card[aria-selected="true"]');
  chosen?.scrollIntoView({ block: "nearest" });
  // on a phone the keyboard would cover the cards
  if (window.matchMedia("(pointer: coarse)").matches) (chosen ?? cards()[0])?.focus();
  else sheet.querySelector("input[type=search]").focus();
}

sheet.addEventListener("close", () => {
  element.querySelector(`.object-row[data-object="${opener?.object}"] .motion-button`)?.focus();
});
sheet.addEventListener("input", sift);
sheet.addEventListener("keydown", (event) => {
  if (event.target.type === "search") {
    const [first] = cards();
    if (event.key === "ArrowDown" && first) first.focus();
    else if (event.key === "Enter" && cards().length === 1) first.click();
    else return;
    event.preventDefault();
  } else roam(event, cards(), { columns: columns() });
});
sheet.addEventListener("click", (event) => {
  const shown = event.target.closest("[data-show]");
  if (shown) {
    whose = shown.dataset.show;
    sift();
    return;
  }
  const own = event.target.closest("[data-what]");
  if (own) {
    const { digest } = own.closest(".own-motion").dataset;
    if (own.dataset.what !== "rename") trigger("own", { what: own.dataset.what, digest });
    return;
  }
  const card = event.target.closest(".card");
  if (card?.dataset.local === "clip") pickClip(opener.object);
  else if (card) act({ kind: "motion", object: opener.object, motion: card.dataset.name });
  const outside = event.target === sheet;
  if (card || outside || event.target.closest('[data-local="close-cards"]')) sheet.close();
});

listenForNames(sheet, ".own-motion", (asked) => trigger("own", asked));

function redrawCards() {
  draw(sheet, props.cards);
  awaitPreviews(sheet);
  if (sheet.open) sift();
}
watch("cards", redrawCards);
redrawCards();
