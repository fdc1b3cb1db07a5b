// A refusal while 100 MB are still being sent over a slow uplink: a page of another origin must be able to read it with
// fetch and with XMLHttpRequest, and must not get a "network error" instead.

import assert from "node:assert/strict";
import { createServer, request } from "node:http";
import { after, before, describe, test } from "node:test";

import { launch, slowUplink } from "./browser.js";
import { MiB } from "./files.js";
import { KEY, keyed, start } from "./gateway.js";
import { Matrix } from "./matrix.js";

/** More than the gateway reads after a response (`server.lingering_timeout`), and more than all buffers in between. */
const SIZE = 100 * MiB;
const UPLINK = 2 * MiB;

/** The refusals by status; each has its own gateway, since all are slow. */
const CASES = {
  401: { code: "unauthenticated", settings: keyed, key: null },
  403: { code: "not_allowed", settings: { ...keyed, "auth.keys.panel.can": "download" } },
  413: { code: "file_too_large", settings: { ...keyed, "upload.max_file_size": 8 * MiB } },
  415: { code: "type_not_allowed", settings: { ...keyed, "upload.allowed_types": "image/*" } },
  429: { code: "rate_limited", settings: { ...keyed, "auth.rate": "1/h" }, prepare: upload },
  503: { code: "overloaded", settings: { ...keyed, "upload.max_concurrent": 1 }, prepare: occupy },
  502: { code: "cos_refused", settings: keyed, prepare: refuse },
};

let browser, origin, closePage;
const matrix = new Matrix("status");

before(async () => {
  browser = await launch();
  const server = createServer((_, response) => response.setHeader("content-type", "text/html").end("<title>panel</title>"));
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  origin = `http://localhost:${server.address().port}`;
  closePage = () => server.close();
});

after(async () => {
  closePage?.();
  await browser?.close();
  console.log(`\n${matrix.table()}`);
});

/** An upload within the limits. */
function upload(gateway) {
  return fetch(`${gateway.url}/v1/files/first`, { method: "PUT", body: "x", headers: { authorization: `Bearer ${KEY}` } });
}

/** An upload that does not end. */
async function occupy(gateway) {
  const headers = { authorization: `Bearer ${KEY}`, "content-length": SIZE };
  const running = request(`${gateway.url}/v1/files/running`, { method: "PUT", headers });
  running.on("error", () => {});
  running.write(Buffer.alloc(MiB));
  const beat = setInterval(() => running.write("x"), 1000);
  gateway.release = () => {
    clearInterval(beat);
    running.destroy();
  };
  await gateway.received(1);
}

function refuse(gateway) {
  return gateway.faults([
    { stage: "cos", fault: "early", status: 403, code: "AccessDenied", after: MiB, then: "reset" },
  ]);
}

/** Runs in the page: uploads, and gives what the page can read of the response. */
async function post({ way, url, key, size }) {
  const form = new FormData();
  form.append("file", new Blob([new Uint8Array(size)], { type: "text/plain" }), "large.txt");
  const began = performance.now();
  const result = (status, type, text) => ({ status, type, text, seconds: (performance.now() - began) / 1000 });
  if (way === "fetch") {
    const headers = key ? { authorization: `Bearer ${key}` } : {};
    const response = await fetch(url, { method: "POST", body: form, headers });
    return result(response.status, response.headers.get("content-type"), await response.text());
  }
  return new Promise((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    xhr.open("POST", url);
    if (key) xhr.setRequestHeader("authorization", `Bearer ${key}`);
    xhr.upload.onprogress = () => {};
    xhr.onload = () => resolve(result(xhr.status, xhr.getResponseHeader("content-type"), xhr.responseText));
    xhr.onerror = () => reject(new Error("a network error"));
    xhr.send(form);
  });
}

describe("a page on a slow uplink reads why its 100 MB are refused", { concurrency: 7 }, () => {
  for (const [status, { code, settings, key = KEY, prepare }] of Object.entries(CASES)) {
    test(`${status} ${code}`, async () => {
      const gateway = await start({ "cors.origins": origin, ...settings });
      try {
        await prepare?.(gateway);
        for (const way of ["fetch", "XMLHttpRequest"]) {
          await matrix.cell(`${status} ${code}`, way, async () => {
            const page = await browser.open();
            await page.goto(origin);
            await slowUplink(page, UPLINK);
            const response = await page.evaluate(post, { way, url: `${gateway.url}/v1/files`, key, size: SIZE });
            console.log(`${status} ${code}, ${way}: after ${response.seconds.toFixed(1)} s`);
            assert.equal(response.status, Number(status), response.text);
            assert.equal(response.type, "application/problem+json");
            const problem = JSON.parse(response.text);
            assert.equal(problem.code, code);
            assert.ok(problem.detail);
            await page.context().close();
          });
        }
        gateway.release?.();
        await gateway.idle();
        const stored = (await gateway.objects()).map((object) => object.key);
        assert.deepEqual(stored, status === "429" ? ["first"] : []);
      } finally {
        await gateway.stop();
      }
    });
  }
});
