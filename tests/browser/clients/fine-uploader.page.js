// It needs `success` in the response, as does Editor.js.

import qq from "fine-uploader/lib/core";

import { add, chunkSize, gateway, reason, showError, showImage, ticket } from "./panel.js";

const choose = add("div", { id: "choose", textContent: "Choose" });
const cancel = add("button", { id: "cancel", textContent: "Cancel" });
const uploader = new qq.FineUploaderBasic({
  button: choose,
  request: { endpoint: `${gateway}/v1/files?reply=editorjs`, customHeaders: { Authorization: `Bearer ${ticket}` } },
  chunking: { enabled: chunkSize > 0, partSize: chunkSize },
  callbacks: {
    onComplete: (id, name, { success, file }) => success && showImage(file.url),
    onError: (id, name, _, xhr) => showError(reason(xhr?.responseText, xhr?.status)),
  },
});
cancel.addEventListener("click", () => uploader.cancelAll());
