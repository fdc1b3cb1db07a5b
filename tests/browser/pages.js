// The web panels: a page for each client, made of its real npm package and of the guides' code as it stands there,
// served from an origin of its own.

import { readFile } from "node:fs/promises";
import { createServer, request as ask } from "node:http";
import { extname, join } from "node:path";
import { pipeline } from "node:stream";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

const HERE = fileURLToPath(new URL("./", import.meta.url));
const TYPES = { ".js": "text/javascript", ".css": "text/css" };
const ADDRESS = "https://files.example.com";

/** The text of a guide, by its place in the repository. */
export const guide = (file) => readFile(join(HERE, "../..", file), "utf8");

/** The code in the `<details>` of this summary. */
export function snippet(guide, summary) {
  const code = guide.split(`<summary>${summary}</summary>`)[1]?.match(/```\w+\n([\s\S]*?)\n```/)?.[1];
  if (!code) throw new Error(`the guides have no code for ${summary}`);
  return code;
}

/**
 * In a page's source, `// GUIDE: SUMMARY` stands for that code, with the page's `gateway` for the address and its
 * imports at the page's beginning; `GUIDE("SUMMARY")` is its text.
 */
const quoting = (guides) => ({
  name: "guides",
  setup(build) {
    build.onLoad({ filter: /\.page\.js$/ }, async ({ path }) => {
      const source = await readFile(path, "utf8");
      let imports = "";
      const contents = source
        .replace(/^\/\/ GUIDE: (.*)$/gm, (_, summary) =>
          snippet(guides, summary)
            .replace(/^import .*\n/gm, (line) => ((imports += line), ""))
            // A property in JSX.
            .replaceAll(new RegExp(`="${ADDRESS}(.*?)"`, "g"), '={gateway + "$1"}')
            .replaceAll(`"${ADDRESS}`, 'gateway + "')
            .replaceAll(`\`${ADDRESS}`, "`${gateway}"))
        .replace(/GUIDE\("(.*)"\)/g, (_, summary) => JSON.stringify(snippet(guides, summary)));
      return { contents: imports + contents, loader: "jsx" };
    });
  },
});

/** What `/bundles/…` serves: each client's page with its packages. */
export async function bundle(names) {
  const guides = await Promise.all(["docs/en/clients-web.md", "docs/en/clients-resumable.md", "docs/en/editors.md"].map(guide));
  const built = await build({
    entryPoints: names.map((name) => ({ in: join(HERE, `clients/${name}.page.js`), out: name })),
    bundle: true,
    write: false,
    outdir: "/",
    plugins: [quoting(guides.join(""))],
    jsx: "automatic",
    loader: { ".svg": "dataurl", ".woff": "dataurl", ".ttf": "dataurl", ".eot": "dataurl" },
    define: { "process.env.NODE_ENV": '"production"' },
    logLevel: "error",
  });
  return new Map(built.outputFiles.map(({ path, contents }) => [`/bundles${path}`, contents]));
}

/**
 * Serves `/NAME`, which runs `clients/NAME.page.js`, and the packages of clients that load parts of themselves. `/v1`
 * is forwarded to `upstream`, for clients that can only read their own origin.
 */
export async function serve(names, bundles) {
  const pages = {};
  const server = createServer(async (request, response) => {
    const { pathname } = new URL(request.url, "http://pages");
    if (pathname.startsWith("/v1/")) return pass(request, response, pages.upstream);
    const name = pathname.slice(1);
    let body = bundles.get(pathname);
    if (names.includes(name)) body = page(name, bundles.has(`/bundles/${name}.css`));
    const folder = { node_modules: HERE, ueditor: join(HERE, "../clients") }[pathname.match(/^\/(\w+)\//)?.[1]];
    if (folder) body = await readFile(join(folder, pathname)).catch(() => undefined);
    response.statusCode = body ? 200 : 404;
    response.setHeader("content-type", `${TYPES[extname(pathname)] ?? "text/html"}; charset=utf-8`);
    response.end(body ?? "");
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  // Another site than the gateway's 127.0.0.1, not just another port.
  pages.origin = `http://localhost:${server.address().port}`;
  /** Breaks every connection. */
  pages.cut = () => server.closeAllConnections();
  pages.close = () => {
    server.closeAllConnections();
    return new Promise((resolve) => server.close(resolve));
  };
  return pages;
}

/** Forwards a request with its headers, `Host` included, so that URLs in responses have the page's origin. */
function pass(request, response, upstream) {
  const { method, headers, url } = request;
  const passed = ask(new URL(url, upstream), { method, headers }, (forwarded) => {
    pipeline(forwarded, response.writeHead(forwarded.statusCode, forwarded.headers), () => {});
  });
  passed.on("error", () => {
    if (response.headersSent) return response.destroy();
    // As nginx responds.
    const page = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n</body>\r\n</html>\r\n";
    response.writeHead(502, { "content-type": "text/html" }).end(page);
  });
  pipeline(request, passed, () => {});
}

const page = (name, styled) => `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>${name}</title><link rel="icon" href="data:,">
${styled ? `<link rel="stylesheet" href="/bundles/${name}.css">` : ""}
<body><script src="/bundles/${name}.js"></script></body></html>`;
