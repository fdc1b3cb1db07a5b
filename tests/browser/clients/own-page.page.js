import { add, gateway, showError, ticket } from "./panel.js";

const input = add("input", { type: "file" });
input.addEventListener("change", () => upload().catch((error) => showError(error.message)));

async function upload() {
  const image = add("img", { id: "stored" });
// GUIDE: A page of your own: fetch
}
