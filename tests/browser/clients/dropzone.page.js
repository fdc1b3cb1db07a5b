import { add, gateway, showImage, ticket } from "./panel.js";

add("div", { id: "dropzone", className: "dropzone" });
const dropzone =
// GUIDE: Dropzone
dropzone.on("success", (file, reply) => showImage(reply.url));
