import { ClassicEditor, Essentials, Image, ImageUpload, Paragraph, SimpleUploadAdapter } from "ckeditor5";
import "ckeditor5/ckeditor5.css";

import { add, gateway, ticket } from "./panel.js";

add("div", { id: "editor" });
// README: CKEditor 5
