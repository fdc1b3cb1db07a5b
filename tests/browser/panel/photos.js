// A user's photos: uploads, thumbnails, deletion, all by the session's cookie. What the page shows are the panel's rows.

const { gateway } = document.documentElement.dataset;
const [message, photos] = [document.querySelector("#message"), document.querySelector("#photos")];

/** A call to the gateway with the session's cookie; a failure is shown. */
async function call(path, options) {
  message.textContent = "";
  const response = await fetch(gateway + path, { credentials: "include", ...options });
  if (!response.ok) await tell(await response.json());
}

function tell({ code, title, detail }) {
  message.dataset.code = code;
  message.textContent = detail ? `${title}: ${detail}` : title;
}

/** The chosen files; the same can be chosen again. */
function taken(input) {
  const files = [...input.files];
  input.value = "";
  return files;
}

document.querySelector("#choose").addEventListener("change", async ({ target }) => {
  for (const file of taken(target)) {
    const body = new FormData();
    body.append("file", file);
    await call("/v1/files", { method: "POST", body });
  }
});

document.querySelector("#large").addEventListener("change", ({ target }) => {
  const [file] = taken(target);
  const upload = new tus.Upload(file, {
    endpoint: `${gateway}/v1/uploads`,
    metadata: { filename: file.name, filetype: file.type },
    chunkSize: 2 * 1024 * 1024,
    retryDelays: [0, 100, 500, 1000],
    removeFingerprintOnSuccess: true,
    onBeforeRequest: (request) => {
      request.getUnderlyingObject().withCredentials = true;
    },
    onError: (error) => tell(JSON.parse(error.originalResponse?.getBody() || '{"title":"The network is down."}')),
  });
  upload.start();
});

document.querySelector("#logout").addEventListener("click", async () => {
  await fetch("/logout", { method: "POST" });
  document.body.dataset.state = "logged-out";
});

/** Shows the panel's rows; without the panel, those that are shown stay. */
async function show() {
  const response = await fetch("/rows").catch(() => undefined);
  if (response?.ok) photos.replaceChildren(...(await response.json()).map(row));
}

function row({ path, name }) {
  const item = Object.assign(document.createElement("li"), { id: path });
  const thumbnail = new Image();
  Object.assign(thumbnail, { src: `${gateway}/v1/files/${encodeURI(path)}?preset=thumb`, alt: name });
  const remove = Object.assign(document.createElement("button"), { textContent: `Delete ${name}` });
  remove.addEventListener("click", () => call(`/v1/files/${encodeURI(path)}`, { method: "DELETE" }));
  item.append(thumbnail, remove);
  return item;
}

// The panel tells of each change; the browser connects again by itself. One after the other: otherwise an earlier list
// could replace a later one.
let shown = Promise.resolve();
new EventSource("/changes").addEventListener("message", () => (shown = shown.then(show)));
