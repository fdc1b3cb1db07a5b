// Dropzone with chunks, as for servers that reassemble them.

import Dropzone from "dropzone";
import "dropzone/dist/dropzone.css";

import { add, chunkSize, gateway, showImage, ticket } from "./panel.js";

add("div", { id: "dropzone", className: "dropzone" });
const dropzone = new Dropzone("#dropzone", {
  url: `${gateway}/v1/files?reply=dropzone`,
  headers: { Authorization: `Bearer ${ticket}` },
  chunking: true,
  forceChunking: true,
  chunkSize: chunkSize || 1024 ** 3,
});
dropzone.on("success", (file) => showImage(JSON.parse(file.xhr.responseText).url));
