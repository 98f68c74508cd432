// Personal links, each with its place, its end, and a code for a phone's camera.

import { copyFrom } from "./copying.js";
import { text } from "./texts.js";

const $ = (id) => document.getElementById(id);

function cell(...content) {
  const td = document.createElement("td");
  td.append(...content);
  return td;
}

function button(words, label, act) {
  const made = Object.assign(document.createElement("button"), { type: "button", className: "quiet", textContent: words });
  made.setAttribute("aria-label", `${words}: ${label}`);
  made.addEventListener("click", () => act(made));
  return made;
}

/** `code(address, title)` shows a code; `days`: how long links live, null for ever. */
export function drawLinkRows(links, { when, code, days }) {
  $("link-table").hidden = !links.length;
  $("link-rows").replaceChildren(
    ...links.map(({ number, address, expires, finished }) => {
      const row = document.createElement("tr");
      const title = text("admin.link_of", { number });
      const link = Object.assign(document.createElement("a"), { href: address, textContent: address });
      link.target = "_blank";
      link.rel = "noopener";
      const end = expires !== null ? when(expires) : days !== null && !finished ? text("admin.expires_days", { days }) : "–";
      row.append(
        cell(String(number)),
        cell(link),
        cell(end),
        cell(
          button(text("admin.copy"), title, (made) => copyFrom(link, made)),
          button(text("admin.qr"), title, () => code(address, title)),
        ),
      );
      return row;
    }),
  );
}

export async function showCode(server, address, title) {
  const picture = await server.picture("admin/api/qr", { address });
  URL.revokeObjectURL($("qr-picture").src);
  $("qr-picture").src = URL.createObjectURL(picture);
  $("qr-picture").alt = title;
  $("qr-heading").textContent = title;
  $("qr-address").textContent = address;
  $("qr").showModal();
}
