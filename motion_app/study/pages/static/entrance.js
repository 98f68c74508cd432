// Whose visit this is.

import { Memory } from "./memory.js";
import { Server } from "./server.js";

/** The token in this page's address. The study's open link gives a place of one's own: by a recruiting
 * service's ids the same one every time, without ids the one this browser was given before. */
export async function findToken() {
  const link = decodeURIComponent(location.pathname.match(/[^/]*$/)[0]);
  if (!link.startsWith("open.")) return link;
  const given = new URLSearchParams(location.search);
  const pid = given.get("PROLIFIC_PID") ?? "";
  const before = new Memory(link);
  const token = (!pid && before.get("token")) || (await enter(link, pid, given));
  if (pid) Memory.of(token).set("recruited", true);
  else before.set("token", token);
  const address = new URL(`r/${token}`, document.baseURI);
  if (given.get("lang")) address.searchParams.set("lang", given.get("lang"));
  history.replaceState(null, "", address);
  return token;
}

async function enter(open, pid, given) {
  const { token } = await new Server().post("api/enter", {
    open,
    prolific_pid: pid,
    study_id: given.get("STUDY_ID") ?? "",
    session_id: given.get("SESSION_ID") ?? "",
  });
  return token;
}
