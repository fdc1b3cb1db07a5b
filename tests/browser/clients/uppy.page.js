import "@uppy/core/css/style.min.css";
import "@uppy/dashboard/css/style.min.css";

import { add, gateway, showImage, ticket } from "./panel.js";

add("div", { id: "uppy" });
const uppy =
// GUIDE: Uppy
uppy.on("upload-success", (file, { uploadURL }) => showImage(uploadURL));
