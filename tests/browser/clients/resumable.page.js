// resumable.js always sends a chunk number; a file that is not split is sent as its only chunk.

import Resumable from "resumablejs";

import { add, chunkSize, gateway, reason, showError, showImage, ticket } from "./panel.js";

const choose = add("button", { id: "choose", textContent: "Choose" });
const cancel = add("button", { id: "cancel", textContent: "Cancel" });
const resumable = new Resumable({
  target: `${gateway}/v1/files`,
  headers: { Authorization: `Bearer ${ticket}` },
  chunkSize: chunkSize || 1024 ** 3,
  testChunks: false,
  maxChunkRetries: 0,
});
resumable.assignBrowse(choose);
resumable.on("fileAdded", () => resumable.upload());
resumable.on("fileSuccess", (file, response) => showImage(JSON.parse(response).url));
resumable.on("fileError", (file, response) => showError(reason(response, response && "by a proxy")));
cancel.addEventListener("click", () => resumable.cancel());
