import { add, gateway, ticket } from "./panel.js";

add("div", { id: "editor" });
// GUIDE: Vditor
