// resumable.js always says which chunk it sends; a file that is not cut is its own only chunk.

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
resumable.on("fileSuccess", (file, reply) => showImage(JSON.parse(reply).url));
resumable.on("fileError", (file, reply) => showError(reason(reply, reply && "by a proxy")));
cancel.addEventListener("click", () => resumable.cancel());
