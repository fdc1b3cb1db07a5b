// Uppy on a network that breaks again and again, in a real browser, on both roads to COS.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { launch } from "./browser.js";
import * as uppy from "./clients/uppy-tus.js";
import { MiB, picture } from "./files.js";
import { keyed, start, ticket } from "./gateway.js";
import { bundle, serve } from "./pages.js";
import { proxy } from "./proxy.js";

const NAMES = ["uppy-tus"];
const SIZE = 300 * MiB;
/**
 * What may be sent again for each cut, on average. The aim is 2 MiB, and 0.7 to 2.0 MiB were measured over loopback: most
 * of it is what the browser sends when it repeats a request by itself, until it notices that the gateway has refused it.
 */
const AGAIN = 2.5 * MiB;

let browser, pages;

before(async () => {
  browser = await launch();
  pages = await serve(NAMES, await bundle(NAMES));
});

after(() => Promise.all([pages?.close(), browser?.close()]));

/** Numbers from 1 to 8 MiB, the same in each run. */
function distances(seed) {
  let state = seed;
  return () => {
    state = (state * 48271) % 0x7fffffff;
    return MiB + Math.floor((state / 0x7fffffff) * 7 * MiB);
  };
}

describe("Uppy over a network that is cut every 1 to 8 MiB", { concurrency: 1 }, () => {
  for (const [seed, via] of ["api", "form"].entries()) {
    test(`over cos.via = "${via}": the file is stored, and little is sent again`, { timeout: 150_000 }, async () => {
      const settings = { "cors.origins": pages.origin, "cos.via": via, "upload.max_file_size": SIZE + MiB, ...keyed };
      const gateway = await start(via === "form" ? { ...settings, "resumable.spool": "spool" } : settings);
      const network = await proxy(gateway.url);
      const page = await browser.open();
      try {
        network.cutOften(distances(7 + seed));
        // By its name it is no picture: the widget would make a thumbnail of it first.
        const given = await picture("large.bin", SIZE, 3);
        await page.goto(`${pages.origin}/uppy-tus?${new URLSearchParams({ gateway: network.url, ticket: ticket(), chunk: 0 })}`);
        await uppy.give(page, given.path);
        await page.locator("#stored[src*='/v1/files/']").waitFor({ state: "attached", timeout: 140_000 });
        const { bytes, cuts } = network.counted;
        network.reset();
        await gateway.aborted();
        const [object, ...others] = await gateway.objects();
        assert.deepEqual(others, []);
        assert.ok(given.content.equals(await gateway.object(object.key)), "what is stored is what was given");
        assert.ok(cuts >= SIZE / (8 * MiB), `${cuts} cuts`);
        const again = bytes - given.content.length;
        assert.ok(again <= cuts * AGAIN, `${again} bytes were sent again after ${cuts} cuts`);
        console.log(`${via}: ${cuts} cuts, ${(again / cuts / MiB).toFixed(2)} MiB sent again for each`);
      } finally {
        await page.context().close();
        await network.close();
        await gateway.stop();
      }
    });
  }
});
