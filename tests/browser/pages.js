// The web panels: a page for each client, made of its real npm package and of the README's code as it stands there,
// served from an origin of its own.

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

const HERE = fileURLToPath(new URL("./", import.meta.url));
const TYPES = { ".js": "text/javascript", ".css": "text/css" };
const ADDRESS = "https://files.example.com";

/** The code in the README's `<details>` of this summary. */
function snippet(readme, summary) {
  const code = readme.split(`<summary>${summary}</summary>`)[1]?.match(/```\w+\n([\s\S]*?)\n```/)?.[1];
  if (!code) throw new Error(`the README has no code for ${summary}`);
  // A page begins with the same imports.
  return code.replace(/^import .*;\n+/gm, "");
}

/**
 * In a page's source, `// README: SUMMARY` stands for that code, with the page's `gateway` for the address;
 * `README("SUMMARY")` is its text.
 */
const quoting = (readme) => ({
  name: "readme",
  setup(build) {
    build.onLoad({ filter: /\.page\.js$/ }, async ({ path }) => {
      const source = await readFile(path, "utf8");
      const contents = source
        .replace(/^\/\/ README: (.*)$/gm, (_, summary) =>
          snippet(readme, summary)
            .replaceAll(`"${ADDRESS}`, 'gateway + "')
            .replaceAll(`\`${ADDRESS}`, "`${gateway}"))
        .replace(/README\("(.*)"\)/g, (_, summary) => JSON.stringify(snippet(readme, summary)));
      return { contents, loader: "js" };
    });
  },
});

/** Serves `/NAME`, which runs `clients/NAME.page.js`, and the npm packages for those that load parts of themselves. */
export async function serve(names) {
  const readme = await readFile(join(HERE, "../../README.md"), "utf8");
  const built = await build({
    entryPoints: names.map((name) => ({ in: join(HERE, `clients/${name}.page.js`), out: name })),
    bundle: true,
    write: false,
    outdir: "/",
    plugins: [quoting(readme)],
    loader: { ".svg": "dataurl", ".woff": "dataurl", ".ttf": "dataurl", ".eot": "dataurl" },
    define: { "process.env.NODE_ENV": '"production"' },
    logLevel: "error",
  });
  const bundles = new Map(built.outputFiles.map(({ path, contents }) => [`/bundles${path}`, contents]));

  const server = createServer(async (request, response) => {
    const { pathname } = new URL(request.url, "http://pages");
    const name = pathname.slice(1);
    let body = bundles.get(pathname);
    if (names.includes(name)) body = page(name, bundles.has(`/bundles/${name}.css`));
    if (pathname.startsWith("/node_modules/")) body = await readFile(join(HERE, pathname)).catch(() => undefined);
    response.statusCode = body ? 200 : 404;
    response.setHeader("content-type", `${TYPES[extname(pathname)] ?? "text/html"}; charset=utf-8`);
    response.end(body ?? "");
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    // Another site than the gateway's 127.0.0.1, not only another port.
    origin: `http://localhost:${server.address().port}`,
    close: () => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(resolve));
    },
  };
}

const page = (name, styled) => `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>${name}</title><link rel="icon" href="data:,">
${styled ? `<link rel="stylesheet" href="/bundles/${name}.css">` : ""}
<body><script src="/bundles/${name}.js"></script></body></html>`;
