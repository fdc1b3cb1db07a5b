// Its page cannot read a response with a 4xx status, so errors must be sent as HTTP 200.

import jquery from "jquery";

import { add, chunkSize, gateway, load, showError, showImage, ticket } from "./panel.js";

const choose = add("div", { id: "choose", textContent: "Choose" });
const cancel = add("button", { id: "cancel", textContent: "Cancel" });
window.jQuery = jquery;
load("/node_modules/webuploader/dist/webuploader.html5only.js").then(() => {
  const uploader = window.WebUploader.create({
    auto: true,
    pick: { id: choose, multiple: false },
    compress: false,
    server: `${gateway}/v1/files?reply=wangeditor`,
    headers: { Authorization: `Bearer ${ticket}` },
    chunked: chunkSize > 0,
    chunkSize,
    chunkRetry: 0,
  });
  uploader.on("uploadAccept", (_, { errno, message }, reject) => {
    if (errno === 0) return true;
    reject(message ?? "by a proxy");
    return false;
  });
  uploader.on("uploadSuccess", (file, response) => showImage(response.data.url));
  uploader.on("uploadError", (file, why) => showError(`Upload failed: ${why}`));
  cancel.addEventListener("click", () => uploader.cancelFile(uploader.getFiles()[0]));
});
