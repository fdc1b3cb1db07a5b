// A plain HTML form.

import { add, gateway, ticket } from "./panel.js";

const form = add("form", { method: "post", enctype: "multipart/form-data" });
// A form cannot set headers.
form.action = `${gateway}/v1/files?ticket=${ticket}`;
const input = Object.assign(document.createElement("input"), { type: "file", name: "file" });
const button = Object.assign(document.createElement("button"), { textContent: "Send" });
form.append(input, button);
