// UEditor is a script of the page, on the page's origin, which forwards to the gateway.

import { add, ticket } from "./panel.js";

add("script", { id: "editor", type: "text/plain" });
const load = (name, then) => add("script", { src: `/ueditor/${name}` }).addEventListener("load", then);
load("ueditor.config.js", () => load("ueditor.all.js", () => {
  const { UE } = window;
// GUIDE: UEditor
}));
