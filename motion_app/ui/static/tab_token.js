// With what the page knows, the tab's own token: a reload keeps it, and so does a tab that is opened
// again after it was closed.
(session, browser) => {
  const name = "motion-transfer-tab";
  let tab = sessionStorage.getItem(name);
  if (!tab) {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    tab = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    sessionStorage.setItem(name, tab);
  }
  return [session, browser, tab];
}
