// As for resumable.js: a file that is not split is sent as its only chunk.

import Flow from "@flowjs/flow.js";

import { add, chunkSize, gateway, reason, showError, showImage, ticket } from "./panel.js";

const choose = add("button", { id: "choose", textContent: "Choose" });
const cancel = add("button", { id: "cancel", textContent: "Cancel" });
const flow = new Flow({
  target: `${gateway}/v1/files`,
  headers: { Authorization: `Bearer ${ticket}` },
  chunkSize: chunkSize || 1024 ** 3,
  testChunks: false,
});
flow.assignBrowse(choose);
flow.on("filesSubmitted", () => flow.upload());
flow.on("fileSuccess", (file, response) => showImage(JSON.parse(response).url));
flow.on("fileError", (file, response, { xhr }) => showError(reason(response, xhr.status)));
cancel.addEventListener("click", () => flow.cancel());
