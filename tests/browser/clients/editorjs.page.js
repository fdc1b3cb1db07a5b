import { add, gateway, ticket } from "./panel.js";

add("div", { id: "editor" });
// README: Editor.js
