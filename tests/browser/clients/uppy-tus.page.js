import "@uppy/core/css/style.min.css";
import "@uppy/dashboard/css/style.min.css";

import { add, gateway, getTicket } from "./panel.js";

add("div", { id: "uppy" });
const image = add("img", { id: "stored" });
// GUIDE: Uppy with @uppy/tus
