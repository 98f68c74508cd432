// gradio has no download without a second click: the hidden button is pressed for the person.
(file) => {
  if (!file) return;
  setTimeout(() => {
    const place = document.querySelector("#motion-download");
    if (place) (place.querySelector("a, button") || place).click();
  }, 150);
}
