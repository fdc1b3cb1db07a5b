import { createEditor, createToolbar } from "@wangeditor/editor";
import "@wangeditor/editor/dist/css/style.css";

import { add, gateway, ticket } from "./panel.js";

const editorConfig = { MENU_CONF: {} };
// GUIDE: wangEditor 5
const [selector, text] = [add("div"), add("div")];
text.style.height = "300px";
const editor = createEditor({ selector: text, html: "<p>An article</p>", config: editorConfig });
createToolbar({ editor, selector, config: { toolbarKeys: ["uploadImage"] } });
