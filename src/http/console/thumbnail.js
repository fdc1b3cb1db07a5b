// The small pictures of rows: made of the file itself before it is stored, then from storage.

import { thumbnailUrl } from "./limits.js";

/** In bytes: a larger stored picture is not downloaded for its thumbnail. */
const MAX_DOWNLOADED = 8 << 20;
/** In bytes: a larger picture that cannot be scaled is not shown. */
const MAX_UNSCALED = 1 << 20;
/** The shorter edge of a thumbnail, in pixels. */
const EDGE = 112;

let last = Promise.resolve();

/** A picture of `file`; undefined if it is none. They are made one after the other: decoding many large photos at once
 * crashes browsers on phones. */
export async function ofFile(file) {
  // The file of an earlier visit is known by its name only.
  if (!(file instanceof Blob) || !file.type.startsWith("image/")) return undefined;
  last = last.then(() => scaledDown(file)).catch(() => unscaled(file));
  const url = await last;
  return url && load(url);
}

/** A picture of the file of `size` bytes that is stored at `url`: as the gateway's preset makes it, otherwise the file
 * itself, if it is not too large. Undefined if there is none. */
export async function ofStored(url, size) {
  const small = thumbnailUrl(url);
  return (small && (await load(small))) ?? (size <= MAX_DOWNLOADED ? load(url) : undefined);
}

function load(url) {
  const picture = new Image();
  picture.alt = "";
  return new Promise((resolve) => {
    picture.addEventListener("load", () => resolve(picture));
    picture.addEventListener("error", () => resolve());
    picture.src = url;
  });
}

async function scaledDown(file) {
  const picture = await createImageBitmap(file);
  const scale = EDGE / Math.min(picture.width, picture.height);
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(picture.width * Math.min(1, scale)));
  canvas.height = Math.max(1, Math.round(picture.height * Math.min(1, scale)));
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  picture.close();
  const blob = await new Promise((resolve) => canvas.toBlob(resolve));
  return URL.createObjectURL(blob);
}

/** A picture that cannot be scaled (SVG) is shown itself. */
const unscaled = (file) => (file.size < MAX_UNSCALED ? URL.createObjectURL(file) : undefined);
