// A foreign page on the panel's host, at another port, to which browsers send the panel's cookie whatever its SameSite.

import { once } from "node:events";
import { createServer, request as ask } from "node:http";
import { pipeline } from "node:stream";

/**
 * The page has a form that posts to `target`, which forwards to the gateway; `cookies` are those that came with each
 * POST, since Chromium does not tell the headers of every request.
 */
export async function foreign(gateway) {
  const cookies = [];
  const forwarding = await listen((request, response) => {
    const { method, headers, url } = request;
    if (method === "POST") cookies.push(headers.cookie);
    const forwarded = ask(new URL(url, gateway), { method, headers }, (answer) => {
      pipeline(answer, response.writeHead(answer.statusCode, answer.headers), () => {});
    });
    pipeline(request, forwarded, () => {});
  });
  const target = `${address(forwarding)}/v1/files`;
  const page = await listen((_, response) => {
    response.setHeader("content-type", "text/html");
    response.end(`<!doctype html><link rel="icon" href="data:,">
      <form method="post" enctype="multipart/form-data" action="${target}">
      <input id="choose" type="file" name="file"><button id="win">Win a prize</button></form>`);
  });
  const close = () => [page, forwarding].forEach((server) => (server.close(), server.closeAllConnections()));
  return { url: address(page), target, cookies, close };
}

async function listen(handler) {
  const server = createServer(handler).listen(0, "127.0.0.1");
  await once(server, "listening");
  return server;
}

const address = (server) => `http://127.0.0.1:${server.address().port}`;
