// Files to upload: real pictures, of any size, different for each seed.

import { mkdtemp, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { crc32, deflateSync } from "node:zlib";

export const MiB = 1024 * 1024;

let folder;

/** Writes a PNG of at least `bytes` bytes, called `name`; gives its path, its bytes and its width. */
export async function picture(name, bytes = 100_000, seed = 1) {
  folder ??= await mkdtemp(join(tmpdir(), "pictures-"));
  const width = 640;
  const height = Math.max(400, Math.ceil(bytes / (3 * width)));
  const content = png(width, height, seed, bytes > 200_000);
  const path = join(folder, name);
  await writeFile(path, content);
  return { path, name, content, width };
}

/** Soft hills of colour, or noise, which does not compress. */
function png(width, height, seed, noise) {
  const rows = Buffer.alloc(height * (1 + 3 * width));
  let random = seed * 2654435761;
  for (let y = 0, at = 0; y < height; y += 1) {
    rows[at++] = 0;
    for (let x = 0; x < width; x += 1) {
      for (let channel = 0; channel < 3; channel += 1) {
        random = (Math.imul(random, 1664525) + 1013904223) >>> 0;
        const hill = 128 + 90 * Math.sin((x * (1 + channel) + seed * 97) / 140) * Math.cos((y + seed * 31) / (90 + 40 * channel));
        rows[at++] = noise ? random >>> 24 : hill;
      }
    }
  }
  const head = Buffer.alloc(13);
  head.writeUInt32BE(width, 0);
  head.writeUInt32BE(height, 4);
  // Eight bits, colours, nothing interlaced.
  head.set([8, 2, 0, 0, 0], 8);
  const signature = Buffer.from([137, 80, 78, 71, 13, 10, 26, 10]);
  const level = noise ? 0 : 6;
  return Buffer.concat([signature, chunk("IHDR", head), chunk("IDAT", deflateSync(rows, { level })), chunk("IEND", Buffer.alloc(0))]);
}

function chunk(type, content) {
  const body = Buffer.concat([Buffer.from(type), content]);
  const frame = Buffer.alloc(8);
  frame.writeUInt32BE(content.length, 0);
  frame.writeUInt32BE(crc32(body), 4);
  return Buffer.concat([frame.subarray(0, 4), body, frame.subarray(4)]);
}
