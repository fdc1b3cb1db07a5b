import { add, gateway, ticket } from "./panel.js";

add("textarea", { id: "editor" });
// Where it loads its theme, skin and icons from.
window.tinyMCEPreInit = { base: "/node_modules/tinymce", suffix: ".min" };
add("script", { src: "/node_modules/tinymce/tinymce.min.js" }).addEventListener("load", () => {
  const { tinymce } = window;
  tinymce.on("AddEditor", ({ editor }) => editor.on("init", () => document.body.classList.add("ready")));
// GUIDE: TinyMCE
});
