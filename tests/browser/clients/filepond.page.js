import { add, gateway, showImage, ticket } from "./panel.js";

add("input", { type: "file", name: "filepond" });
const pond =
// GUIDE: FilePond
// The form holds the file's id, cloud://ENVIRONMENT/PATH.
pond.on("processfile", (error, file) => {
  if (!error) showImage(`${gateway}/v1/files/${file.serverId.split("/").slice(3).join("/")}`);
});
