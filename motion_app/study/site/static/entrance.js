// Whose visit this is, and the address it goes on at: one that opens the rater's place in this browser
// and nothing in any other.

import { Memory } from "./memory.js";
import { insist } from "./screens.js";
import { Refused, Server } from "./server.js";
import { text } from "./texts.js";

const HERE = "here.";
const IDS = { PROLIFIC_PID: "prolific_pid", STUDY_ID: "study_id", SESSION_ID: "session_id" };

/** `{token}` of a rater's place, or `{invitation, session}` of somebody who takes one by agreeing. */
export async function findVisit(language) {
  const link = decodeURIComponent(location.pathname.match(/[^/]*$/)[0]);
  if (link.startsWith(HERE)) return { token: kept(link.slice(HERE.length)) };
  if (!link.startsWith("open.")) return { token: link };
  const ids = history.state?.ids ?? idsOf(new URLSearchParams(location.search));
  const before = new Memory(link);
  const known = before.get(tokenName(ids)); // an id alone opens nothing that was answered
  if (known && (await opens(known))) return { token: known };
  before.forget(tokenName(ids));
  if (!("prolific_pid" in ids)) {
    ids.browser ??= before.get("browser") ?? newId();
    before.set("browser", ids.browser);
  }
  goOnAt(link, { ids }); // an id is nobody else's business, and stays for a reload
  const invitation = { open: link, ...ids };
  const { token, session } = await enter(invitation, language);
  if (token) remember(token, invitation);
  return token ? { token } : { invitation, session };
}

/** Take the place that `invitation` is for: `{token, session}`. */
export async function takePlace(invitation, language) {
  const taken = await enter({ ...invitation, agreed: true }, language);
  remember(taken.token, invitation);
  return taken;
}

/** From now on the address names the place and does not open it; this browser knows the rest. */
export function hideToken(token) {
  const owner = token.slice(0, 12);
  Memory.of(token).set("token", token);
  goOnAt(HERE + owner, { token });
}

/** Change the address; `state` stays with this tab, where storage is forbidden too. */
function goOnAt(link, state) {
  const address = new URL(`r/${link}`, document.baseURI);
  const lang = new URLSearchParams(location.search).get("lang");
  if (lang) address.searchParams.set("lang", lang);
  history.replaceState(state, "", address);
}

/** The open link that a place was taken by, for another one; null where it came from elsewhere. */
export function wayBack(token) {
  const link = Memory.of(token).get("link");
  return link ? new URL(`r/${link}`, document.baseURI).href : null;
}

export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return bytes.reduce((hex, byte) => hex + byte.toString(16).padStart(2, "0"), "");
}

function kept(owner) {
  const token = history.state?.token ?? new Memory(owner).get("token");
  if (!token?.startsWith(owner)) throw new Refused(404, text("problem.elsewhere"));
  return token;
}

function idsOf(query) {
  const ids = {};
  for (const [name, value] of query) {
    const key = IDS[name.toUpperCase()];
    if (key) ids[key] ??= value;
  }
  return ids;
}

/** Whether a place remembered from before is still there: it may have been given to somebody else. */
async function opens(token) {
  try {
    await insist(() => new Server(token).get("api/session"));
    return true;
  } catch (error) {
    return !(error.status === 401 || error.reason === "place_gone");
  }
}

function enter(entry, language) {
  return insist(() => new Server().post(`api/enter?lang=${language}`, entry));
}

/** What the token of a place is remembered by; an outside id is not to be read in there. */
function tokenName({ prolific_pid: id }) {
  if (id === undefined) return "token";
  let hash = 2166136261; // FNV-1a
  for (const byte of new TextEncoder().encode(id)) hash = Math.imul(hash ^ byte, 16777619);
  return `token ${(hash >>> 0).toString(36)}`;
}

function remember(token, { open, browser, ...ids }) {
  const before = new Memory(open);
  before.set(tokenName(ids), token);
  if (!browser) {
    Memory.of(token).set("recruited", true);
    return;
  }
  before.forget("browser");
  Memory.of(token).set("link", open);
}
