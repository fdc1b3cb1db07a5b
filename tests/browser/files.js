// Files to upload: real pictures, different for each seed, of any size.

import { mkdtemp, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { deflateSync } from "node:zlib";

export const MiB = 1024 * 1024;

/**
 * More than all socket buffers between a browser and COS, on a kernel with up to 32 MiB of receive and 4 MiB of send
 * buffer for each. A file that fits into them has left the browser when its upload is cancelled, and is stored.
 */
export const MORE_THAN_SOCKET_BUFFERS = 96 * MiB;

const [WIDTH, HEIGHT] = [640, 400];

const written = new Map();

/** Writes a PNG of at least `bytes` bytes, called `name`; gives its path, its bytes and its width in pixels. */
export function picture(name, bytes = 0, seed = 1) {
  const which = [name, bytes, seed].join();
  if (!written.has(which)) written.set(which, write(name, bytes, seed));
  return written.get(which);
}

async function write(name, bytes, seed) {
  // A folder for each, since pictures of different sizes have the same name.
  const path = join(await mkdtemp(join(tmpdir(), "pictures-")), name);
  const content = png(bytes, seed);
  await writeFile(path, content);
  return { path, name, content, width: WIDTH };
}

/** Smooth colours, decoded quickly at any size: a chunk that decoders skip fills the file up to its size. */
function png(bytes, seed) {
  const rows = Buffer.alloc(HEIGHT * (1 + 3 * WIDTH));
  for (let y = 0, at = 0; y < HEIGHT; y += 1) {
    rows[at++] = 0;
    for (let x = 0; x < WIDTH; x += 1) {
      for (let channel = 0; channel < 3; channel += 1) {
        const across = Math.sin((x + 61 * seed) / (90 + 35 * channel));
        const down = Math.cos((y + 23 * seed) / (70 + 25 * channel));
        rows[at++] = 150 + 60 * across * down + 30 * across;
      }
    }
  }
  const head = Buffer.alloc(13);
  head.writeUInt32BE(WIDTH, 0);
  head.writeUInt32BE(HEIGHT, 4);
  // Eight bits a channel, three channels, not interlaced.
  head.set([8, 2, 0, 0, 0], 8);
  return Buffer.concat([
    Buffer.from([137, 80, 78, 71, 13, 10, 26, 10]),
    chunk("IHDR", head),
    chunk("paDd", noise(bytes, seed)),
    chunk("IDAT", deflateSync(rows)),
    chunk("IEND", Buffer.alloc(0)),
  ]);
}

function noise(length, seed) {
  const words = new Uint32Array(Math.ceil(length / 4));
  let state = seed * 2654435761;
  for (let index = 0; index < words.length; index += 1) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    words[index] = state;
  }
  return Buffer.from(words.buffer);
}

function chunk(type, content) {
  const body = Buffer.concat([Buffer.from(type), content]);
  const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
  length.writeUInt32BE(content.length);
  sum.writeUInt32BE(crc32(body));
  return Buffer.concat([length, body, sum]);
}

const CRC = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit += 1) byte = byte & 1 ? (byte >>> 1) ^ 0xedb88320 : byte >>> 1;
  return byte;
});

// Node has this since 20.15, and Debian's Node is 18.
function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}
