// got encodes the form itself, with an empty line after the last delimiter.

import { openAsBlob } from "node:fs";
import got from "got";

const form = new FormData();
form.append("dir", "reports");
form.append("file", await openAsBlob("photo.png", { type: "image/png" }), "photo.png");
const reply = await got.post("https://files.example.com/v1/files", {
  headers: { Authorization: `Bearer ${process.env.GATEWAY_KEY}` },
  body: form,
  throwHttpErrors: false,
});
if (reply.statusCode !== 201) throw new Error(`HTTP ${reply.statusCode}: ${reply.body}`);
console.log(JSON.parse(reply.body).files[0].url);
