import EditorJS from "@editorjs/editorjs";
import ImageTool from "@editorjs/image";

import { add, gateway, ticket } from "./panel.js";

add("div", { id: "editor" });
// README: Editor.js
