// A page that uploads with a ticket of the panel, without the cookie. A ticket that has expired is replaced once.

const { gateway } = document.documentElement.dataset;
const show = (id, text) => (document.querySelector(`#${id}`).textContent = text);

const newTicket = async () => (await (await fetch("/ticket", { method: "POST" })).json()).ticket;

let ticket = await newTicket();
document.documentElement.dataset.state = "ready";

function send(file) {
  const body = new FormData();
  body.append("file", file);
  return fetch(`${gateway}/v1/files`, { method: "POST", body, headers: { Authorization: `Bearer ${ticket}` } });
}

document.querySelector("#choose").addEventListener("change", async ({ target }) => {
  let response = await send(target.files[0]);
  if (response.status === 401) {
    ticket = await newTicket();
    response = await send(target.files[0]);
  }
  const { files, title, detail } = await response.json();
  if (response.ok) show("stored", files[0].path);
  else show("message", `${title} ${detail}`);
});
