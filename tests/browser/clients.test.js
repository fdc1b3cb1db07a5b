// Real widgets and editors in a real browser, on pages of another origin, set up as the guides say: what their users
// see, and what is stored. Both roads to COS, forms and COS's API, have their own gateways and run side by side.

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { request } from "node:http";
import { after, before, beforeEach, describe, test } from "node:test";

import { launch } from "./browser.js";
import { MORE_THAN_SOCKET_BUFFERS, MiB, picture } from "./files.js";
import { KEY, keyed, start, ticket } from "./gateway.js";
import { Matrix } from "./matrix.js";
import { bundle, serve } from "./pages.js";

/** Each has a page, `clients/NAME.page.js`, and its user's actions there, `clients/NAME.js`. */
const NAMES = [
  "own-page", "plain-form", "element-plus", "antd", "uppy", "wangeditor", "tinymce", "ckeditor", "editorjs",
  "vditor", "ueditor", "filepond", "dropzone", "dropzone-chunks", "webuploader", "resumable", "flow",
  "fine-uploader", "uppy-tus", "tus-js-client",
];
/** The clients that can split a file into chunks for servers that reassemble them. */
const CHUNKING = ["dropzone-chunks", "webuploader", "resumable", "flow", "fine-uploader"];
const LIMIT = 8 * MiB;
/** The values of `cos.via`. Over COS's API, only what sends a file runs: the other cases are the same. */
const ROADS = ["form", "api"];
const SENDING = ["with a ticket", "server error", "too large", "cancelled", "one chunk"];

/** The text of each refusal, as shown by clients that pass it on. */
const WORDS = {
  "server error": /AccessDenied/,
  "too large": /8\.0 MiB/,
  "wrong key": /key|ticket/,
  "no network": /fail|error|connection|code/i,
  "proxy error": /502|Bad Gateway/,
  "in chunks": /chunk/i,
  "type refused": /application\/pdf|type/i,
  overloaded: /running already/,
};
/** Text that a page shows if it reads another response as the gateway's JSON. */
const NONSENSE = /undefined|\[object|is not valid JSON|Unexpected token/;

/** The defaults for clients. */
const USUAL = {
  prepare: () => {},
  image: (page) => page.locator("#stored"),
  said: (page) => page.locator("#error").innerText(),
  words: {},
  // An API key is sent in a header only.
  setsHeaders: true,
  // It also shows its user failures that do not come from the gateway.
  explains: true,
  // Cases that do not depend on the road run on the first.
  roads: ROADS,
  // It has no cancel button: its user leaves the page.
  cancel: (page) => page.goto("about:blank"),
};

const clients = await Promise.all(
  NAMES.map(async (name) => ({ name, ...USUAL, ...(await import(`./clients/${name}.js`)) })),
);
const COLUMNS = [
  "with a ticket", "with a key", "server error", "too large", "cancelled", "wrong key", "no network", "proxy error",
  "in chunks", "one chunk", "type refused", "overloaded",
];
const column = (label, via) => (via === "api" ? `${label}, API` : label);
const overApi = ["with a ticket", "with a key", ...SENDING.slice(1)];
const matrix = new Matrix("client", [...COLUMNS, ...overApi.map((label) => column(label, "api"))]);
// Scripts, servers and apps, from the results of tests/api/readme.rs.
const others = new URL("../../target/tmp/clients.md", import.meta.url);
if (existsSync(others)) matrix.add(await readFile(others, "utf8"));
let browser, bundles, stopped;

before(async () => {
  // One after the other, so that after a failure everything started before it is stopped.
  browser = await launch();
  bundles = await bundle(NAMES);
  // The URL of a gateway that has exited.
  stopped = await start();
  await stopped.stop();
});

after(async () => {
  await browser?.close();
  if (browser) await writeFile(browser.output("clients.md"), matrix.table());
});

describe("the clients", { concurrency: ROADS.length }, () => {
  for (const via of ROADS) describe(`over cos.via = "${via}"`, { concurrency: 1 }, () => road(via));
});

/** The tests of one road. */
function road(via) {
  let pages, limited, streaming, overloaded, running;

  before(async () => {
    pages = await serve(NAMES, bundles);
    const settings = { "cors.origins": pages.origin, "cos.via": via, ...keyed };
    limited = await start({ ...settings, "upload.max_file_size": LIMIT });
    // Files of unknown length are streamed to COS, too.
    streaming = await start({ ...settings, "upload.max_buffered_file": MiB });
    if (!clients.some((client) => client.isResumable && client.roads[0] === via)) return;
    // Its only upload goes on.
    overloaded = await start({ ...settings, "upload.max_concurrent": 1, "upload.idle_timeout": "1h" });
    const headers = { authorization: `Bearer ${KEY}`, "content-length": 2 };
    running = request(`${overloaded.url}/v1/files/running`, { method: "PUT", headers }).on("error", () => {});
    running.write("x");
    const inFlight = async () => (await fetch(`${overloaded.url}/metrics`)).text();
    while (!(await inFlight()).includes("gateway_uploads_in_flight 1\n"));
  });

  after(() => running?.destroy());

  after(() => Promise.all([pages?.close(), limited?.stop(), streaming?.stop(), overloaded?.stop()]));

  beforeEach(() => Promise.all([limited.reset(), streaming.reset()]));

  /** Sets a fault of the requests that carry the file's bytes. */
  const failing = (gateway, fault) =>
    gateway.faults((via === "api" ? ["put", "part"] : ["cos"]).map((stage) => ({ stage, ...fault })));

  /** Nothing is stored, and nothing is left of what was sent. */
  async function storesNothing(gateway) {
    await gateway.idle();
    await gateway.aborted();
    assert.deepEqual(await gateway.objects(), []);
  }

  /**
   * Runs `body` on the client's page, which has the URL of a gateway and a ticket. The page's own origin forwards `/v1`
   * to `upstream`.
   */
  async function visit(client, label, body, { gateway = () => limited, upstream = gateway, credential = ticket(), chunk = 0 } = {}) {
    const page = await browser.open({ viewport: { width: 900, height: 700 } });
    await client.prepare(page);
    pages.upstream = upstream().url;
    const query = new URLSearchParams({ gateway: gateway().url, ticket: credential, chunk });
    await page.goto(`${pages.origin}/${client.name}?${query}`);
    try {
      await body(page);
    } finally {
      await page.screenshot({ path: browser.output(`${client.name}-${column(label, via).replaceAll(/\W+/g, "-")}.png`) });
      await page.context().close();
    }
  }

  for (const client of clients) {
    describe(client.title, () => {
      const run = (label, body, options) => {
        if (!client.roads.includes(via)) return;
        if (via !== client.roads[0] && !SENDING.includes(label)) return;
        // By a form, nothing of a resumable upload is at COS before all of it has left the browser.
        if (client.isResumable && via === "form" && label === "cancelled") return matrix.skip(client.title, label);
        const cell = overApi.includes(label) ? column(label, via) : label;
        test(label, () => matrix.cell(client.title, cell, () => visit(client, label, body, options)));
      };

      /** The image is shown from the returned URL, and the file is stored unchanged, once. */
      async function stores(page) {
        const given = await picture("picture.png");
        await client.give(page, given.path);
        const image = await client.image(page);
        await image.waitFor();
        const shown = await image.evaluate(async (image) => {
          await image.decode();
          return { source: image.src, width: image.naturalWidth };
        });
        assert.equal(shown.width, given.width);
        await limited.aborted();
        const objects = await limited.objects();
        assert.equal(objects.length, 1);
        assert.ok(decodeURI(shown.source).includes(objects[0].key), `${shown.source} is not ${objects[0].key}`);
        assert.ok(given.content.equals(await limited.object(objects[0].key)), "what is stored is what was given");
      }

      /** The failure is shown as text, and nothing is stored. */
      async function refuses(page, label, given) {
        await client.give(page, given.path);
        assert.match(await client.said(page), client.words[label] ?? WORDS[label]);
        if (!client.isResumable) return storesNothing(limited);
        assert.deepEqual((await limited.objects()).filter(({ key }) => !key.startsWith(".resumable/")), []);
      }

      run("with a ticket", stores);
      if (client.setsHeaders) run("with a key", stores, { credential: KEY });
      else if (via === "form") matrix.skip(client.title, "with a key");

      run("server error", async (page) => {
        await failing(limited, { fault: "status", status: 403, code: "AccessDenied" });
        await refuses(page, "server error", await picture("picture.png"));
      });

      run("too large", async (page) => refuses(page, "too large", await picture("large.png", 24 * MiB)));

      run("cancelled", async (page) => {
        // Slow enough that an editor which is busy with the picture can still cancel.
        await failing(streaming, { fault: "slow", bytes_per_second: 8 * MiB });
        await client.give(page, (await picture("large.png", MORE_THAN_SOCKET_BUFFERS)).path);
        await streaming.received(MiB);
        await client.cancel(page);
        await storesNothing(streaming);
      }, { gateway: () => streaming });

      run("wrong key", async (page) => refuses(page, "wrong key", await picture("picture.png")), { credential: "wrong" });

      /** A failure that does not come from the gateway is also shown as text. */
      async function explains(page, label) {
        await client.give(page, (await picture("picture.png")).path);
        const said = await (client.explained ?? client.said)(page);
        assert.match(said, client.words[label] ?? WORDS[label]);
        assert.doesNotMatch(said, NONSENSE);
        if (!client.showsPages) assert.doesNotMatch(said, /<\w+>/);
      }

      const ways = {
        "no network": { gateway: () => stopped },
        "proxy error": { gateway: () => ({ url: pages.origin }), upstream: () => stopped },
      };
      for (const [label, way] of Object.entries(ways)) {
        if (client.explains) run(label, (page) => explains(page, label), way);
        else if (via === "form") matrix.skip(client.title, label);
      }

      if (client.isResumable) {
        const documents = { credential: ticket({ types: ["application/pdf"] }) };
        run("type refused", async (page) => refuses(page, "type refused", await picture("picture.png")), documents);
        run("overloaded", async (page) => refuses(page, "overloaded", await picture("picture.png")), { gateway: () => overloaded });
      }

      if (!CHUNKING.includes(client.name)) return;

      run("in chunks", async (page) => refuses(page, "in chunks", await picture("large.png", 3 * MiB)), { chunk: MiB });

      run("one chunk", stores, { chunk: 4 * MiB });
    });
  }

  describe("cases of a single client", () => {
    const only = (name, label, body, options) => {
      const client = clients.find((client) => client.name === name);
      if (!client.roads.includes(via)) return;
      test(`${client.title} ${label}`, () => visit(client, label, (page) => body(page, client), options));
    };

    for (const name of ["uppy-tus", "tus-js-client"]) {
      if (via === "form") continue;
      only(name, "continues with a new ticket when the browser is online again", async (page, client) => {
        await failing(streaming, { fault: "slow", bytes_per_second: 8 * MiB });
        const given = await picture("large.png", 48 * MiB);
        const sent = new Set();
        page.on("request", (request) => sent.add(request));
        page.on("requestfailed", (request) => sent.delete(request));
        await client.give(page, given.path);
        await streaming.received(MiB);
        // Before the cut: Uppy asks for the next request's ticket as soon as one fails, also while it is offline.
        const renewed = ticket({ jti: "renewed" });
        await page.evaluate((renewed) => (window.newTicket = renewed), renewed);
        await page.context().setOffline(true);
        pages.cut();
        await streaming.faults([]);
        await page.context().setOffline(false);
        await client.image(page).and(page.locator("[src*='/v1/files/']")).waitFor({ timeout: 60_000 });
        await streaming.aborted();
        const [object, ...others] = await streaming.objects();
        assert.deepEqual(others, []);
        assert.ok(given.content.equals(await streaming.object(object.key)), "what is stored is what was given");
        const withNew = [...sent].filter((request) => request.headers().authorization === `Bearer ${renewed}`);
        assert.deepEqual(withNew.map((request) => request.method()), ["HEAD", "PATCH", "GET"]);
        assert.equal([...sent].filter((request) => request.method() === "POST").length, 1, "it was one upload");
      }, { gateway: () => ({ url: pages.origin }), upstream: () => streaming });
    }

    only("filepond", "reverts an upload", async (page, client) => {
      await client.give(page, (await picture("picture.png")).path);
      await page.locator("#stored").waitFor();
      assert.match(await page.locator("input[type=hidden][name=filepond]").inputValue(), /^cloud:\/\//);
      const response = page.waitForResponse((response) => response.request().method() === "DELETE");
      await page.locator(".filepond--action-revert-item-processing").click();
      assert.equal((await response).status(), 204);
      assert.deepEqual(await limited.objects(), []);
    });

    only("vditor", "shows the files that are stored beside the one that is not", async (page, client) => {
      const sizes = { "one.png": 0, "large.png": 9 * MiB, "two.png": 0 };
      const given = await Promise.all(Object.entries(sizes).map(([name, size], seed) => picture(name, size, seed)));
      await client.give(page, given.map(({ path }) => path));
      assert.match(await client.said(page), /8\.0 MiB/);
      await client.image(page).nth(1).waitFor();
      assert.equal((await limited.objects()).length, 2);
    });

    only("ueditor", "uploads what is pasted, with its field behind the file", async (page, client) => {
      const { content } = await picture("picture.png");
      await page.frameLocator(".edui-for-simpleupload iframe").locator("input[type=file]").waitFor({ state: "attached" });
      await page.frameLocator("#ueditor_0").locator("body").evaluate((body, base64) => {
        const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
        const clipboardData = new DataTransfer();
        clipboardData.items.add(new File([bytes], "image.png", { type: "image/png" }));
        body.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }));
      }, content.toString("base64"));
      await client.image(page).waitFor();
      assert.equal((await limited.objects()).length, 1);
    });
  });

  if (via === "form") describe("a page that appends another value than its File", () => {
    /** Runs in the page: posts the value of `expression` for its file input, and gives the response. */
    async function append(input, { expression, url }) {
      const form = new FormData();
      form.append("file", new Function("input", `return ${expression}`)(input));
      return (await fetch(url, { method: "POST", body: form })).json();
    }

    const plain = clients.find((client) => client.name === "plain-form");
    const url = () => `${limited.url}/v1/files?ticket=${ticket()}`;

    for (const expression of ["undefined", "null", "{}", "input", "input.files", "input.value", "JSON.stringify(input.files[0])"]) {
      test(`${expression} gets an explanation`, () => visit(plain, "text", async (page) => {
        const { path, content } = await picture("picture.png");
        const input = page.locator("input[type=file]");
        await input.setInputFiles(path);
        const problem = await input.evaluate(append, { expression, url: url() });
        assert.equal(problem.code, "no_file", JSON.stringify(problem));
        assert.match(problem.detail, /text/);
        assert.deepEqual(await limited.objects(), []);

        const { files } = await input.evaluate(append, { expression: "input.files[0]", url: url() });
        assert.equal(files[0].size, content.length);
      }));
    }
  });
}
