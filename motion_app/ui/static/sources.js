// Pictures from the clipboard, the camera, or dropped on the stage: all go the way of a chosen file.
draw(mount, props.markup);
const dialog = element.querySelector(".camera-dialog");
const video = dialog.querySelector("video");
const refusal = dialog.querySelector(".note");

function give(file) {
  const input = document.querySelector("#upload input[type=file]");
  if (!input || !file) return;
  const files = new DataTransfer();
  files.items.add(file);
  input.files = files.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
}

function pictureOf(transfer) {
  const endings = element.querySelector(".sources").dataset.endings.split(" ");
  return [...(transfer?.files ?? [])].find((file) => /^image\//.test(file.type)
    || endings.some((ending) => file.name.toLowerCase().endsWith(ending)));
}

listenWhileHere(document, "paste", (event) => {
  const file = pictureOf(event.clipboardData);
  if (!file || element.offsetParent === null) return;
  event.preventDefault();
  give(file);
});
listenWhileHere(document, "dragover", (event) => {
  if (event.target.closest?.("#stage")) event.preventDefault();
});
listenWhileHere(document, "drop", (event) => {
  if (!event.target.closest?.("#stage")) return;
  event.preventDefault();
  const video = [...event.dataTransfer.files].find(({ type }) => /^video\//.test(type));
  if (video) {
    document.dispatchEvent(new CustomEvent("clip-dropped", { detail: video }));
    return;
  }
  // What is no picture goes the same way, which refuses it in words.
  give(pictureOf(event.dataTransfer) ?? event.dataTransfer.files[0]);
});
// A video on the box for a picture means the same as one on the picture. Heard before the box hears
// it, which would refuse it.
listenWhileHere(document, "drop", (event) => {
  if (!event.target.closest?.("#upload")) return;
  const video = [...event.dataTransfer.files].find(({ type }) => /^video\//.test(type));
  if (!video) return;
  event.preventDefault();
  event.stopPropagation();
  document.dispatchEvent(new CustomEvent("clip-dropped", { detail: video }));
}, { capture: true });

function stopCamera() {
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
}

async function startCamera() {
  refusal.hidden = true;
  dialog.showModal();
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({
      video: { width: { ideal: 1920 }, facingMode: "environment" },
    });
    if (!dialog.open) stopCamera();
  } catch {
    refusal.textContent = dialog.dataset.refused;
    refusal.hidden = false;
  }
}

function shoot() {
  if (!video.videoWidth) return;
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => {
    give(new File([blob], "camera.png", { type: "image/png" }));
    dialog.close();
  }, "image/png");
}

dialog.addEventListener("close", stopCamera);
element.addEventListener("click", (event) => {
  const local = event.target.closest("[data-local]")?.dataset.local;
  if (local === "camera") startCamera();
  else if (local === "shoot") shoot();
  else if (local === "close-camera") dialog.close();
});
