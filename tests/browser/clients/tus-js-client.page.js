import { add, gateway, getTicket, showError } from "./panel.js";

const input = add("input", { type: "file", id: "choose" });
const cancel = add("button", { id: "cancel", textContent: "Cancel" });
input.addEventListener("change", () => start());

async function start() {
  const image = add("img", { id: "stored" });
// GUIDE: tus-js-client in a page
  cancel.addEventListener("click", () => upload.abort(true));
}
