import { add, gateway, ticket } from "./panel.js";

add("textarea", { id: "editor" });
// The URL from which it loads its theme, skin and icons.
window.tinyMCEPreInit = { base: "/node_modules/tinymce", suffix: ".min" };
add("script", { src: "/node_modules/tinymce/tinymce.min.js" }).addEventListener("load", () => {
  const { tinymce } = window;
  tinymce.on("AddEditor", ({ editor }) => editor.on("init", () => document.body.classList.add("ready")));
// GUIDE: TinyMCE
});
