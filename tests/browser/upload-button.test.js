// The README's upload button, end to end: its back end and its page as they stand there, in a real browser.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { launch } from "./browser.js";
import { picture } from "./files.js";
import { start } from "./gateway.js";
import { guide, snippet } from "./pages.js";

const KEY = "panel-key-of-the-readme";
const SECRET = "a-secret-shared-by-gateway-and-back-end";

let browser, folder, gateway, backEnd, origin;

before(async () => {
  browser = await launch();
  folder = await mkdtemp(join(tmpdir(), "upload-button-"));
  // A port that was free a moment ago: the gateway must know the page's origin, and the page the gateway's URL.
  const free = createServer().listen(0, "127.0.0.1");
  await once(free, "listening");
  const { port } = free.address();
  free.close();
  await once(free, "close");
  origin = `http://127.0.0.1:${port}`;
  gateway = await start({
    "auth.anonymous": "false",
    "cors.origins": origin,
    "auth.keys.panel.sha256": createHash("sha256").update(KEY).digest("hex"),
    "auth.jwt.algorithm": "HS256",
    "auth.jwt.key": SECRET,
  });
  const readme = await guide("README.md");
  const here = (code) => code.replaceAll("https://files.example.com", gateway.url);
  const server = "The back end, in Node: it mints tickets, learns what was stored, and deletes";
  const page = "The page (<code>index.html</code>): it uploads, tells the back end, shows and deletes";
  await writeFile(join(folder, "server.mjs"), here(snippet(readme, server)));
  await writeFile(join(folder, "index.html"), here(snippet(readme, page)));
  const env = { PATH: process.env.PATH, PORT: port, GATEWAY_KEY: KEY, TICKET_SECRET: SECRET };
  backEnd = spawn(process.execPath, ["server.mjs"], { cwd: folder, env, stdio: "inherit" });
  for (;;) {
    if (await fetch(origin).then(({ ok }) => ok, () => false)) break;
    assert.equal(backEnd.exitCode, null, "the back end has ended");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
});

after(async () => {
  backEnd?.kill();
  await Promise.all([browser?.close(), gateway?.stop()]);
  if (folder) await rm(folder, { recursive: true, force: true });
});

const photos = async () => (await fetch(`${origin}/photos/users/17/`)).json();

test("a photo is uploaded, registered, shown and deleted", async () => {
  const page = await browser.open();
  await page.goto(origin);
  const { path, content } = await picture("button.png");
  await page.locator("#file").setInputFiles(path);
  await page.waitForFunction(() => document.querySelector("#photo").naturalWidth > 0);
  const [object] = await gateway.objects();
  assert.match(object.key, /^users\/17\/uploads\//);
  assert.deepEqual(await gateway.object(object.key), content);
  assert.deepEqual(await photos(), [object.key]);

  await page.locator("#remove").click();
  await page.locator("#remove").waitFor({ state: "hidden" });
  assert.deepEqual(await gateway.objects(), []);
  assert.deepEqual(await photos(), []);
  assert.deepEqual(page.faults, []);
});

test("what is no image is refused, in words, and not registered", async () => {
  const page = await browser.open();
  await page.goto(origin);
  const file = { name: "page.html", mimeType: "text/html", buffer: Buffer.from("<!doctype html><p>no image") };
  await page.locator("#file").setInputFiles(file);
  await page.waitForFunction(() => document.querySelector("#message").value);
  assert.match(await page.locator("#message").innerText(), /text\/html|type/);
  assert.deepEqual(await gateway.objects(), []);
  assert.deepEqual(await photos(), []);
});

test("another user's photo is not deleted, whatever is written into the path", async () => {
  const headers = { Authorization: `Bearer ${KEY}` };
  const put = `${gateway.url}/v1/files/users/18/theirs.png`;
  // The sandbox lets the key name its paths.
  const stored = await fetch(put, { method: "PUT", headers, body: "x" });
  assert.equal(stored.status, 201, await stored.text());
  for (const path of ["users/18/theirs.png", "users%2F17%2F..%2F18%2Ftheirs.png", "users/17/%2e%2e%2F18/theirs.png"]) {
    for (const method of ["PUT", "DELETE"]) await fetch(`${origin}/photos/${path}`, { method });
    assert.equal((await gateway.objects()).length, 1, path);
  }
});
