// Reads the gateway's responses. The default profile has all facts; editors' formats have the URL or the error only.

export const profiles = [
  "default", "wangeditor", "tinymce", "ckeditor", "editorjs", "vditor", "ueditor", "filepond", "dropzone", "text",
];

/** `{ stored }` or `{ problem }`. */
export function read(response) {
  const body = parse(response.text);
  const failed = response.status < 200 || response.status > 299 || hasError(body);
  return failed ? { problem: problem(response, body) } : { stored: stored(response, body) };
}

/** The problem in a response. */
export function problem({ status, text, requestId, retryAfter }, body = parse(text)) {
  // Editors' formats have the problem document as a member; some are sent with HTTP 200.
  const document = body.problem ?? body;
  const message = document.detail ?? body.message ?? body.error?.message ?? body.error ?? body.msg ?? body.state;
  return {
    code: typeof document.code === "string" ? document.code : text.match(/^([a-z_]+): .*\n$/s)?.[1],
    title: document.title ?? `HTTP ${status}`,
    detail: typeof message === "string" ? message : text.slice(0, 400),
    ids: {
      errcode: document.errcode, rid: document.rid,
      cos_code: document.cos_code, cos_request_id: document.cos_request_id,
    },
    requestId: document.request_id ?? requestId,
    status: typeof document.status === "number" ? document.status : status,
    retryAfter,
  };
}

function stored({ text, requestId, timing }, body) {
  const file = body.files?.[0] ?? {};
  const plain = text.trim();
  const plainUrl = /^(https?:\/\/|\/)\S+$/.test(plain) ? plain : undefined;
  const url = body.url ?? body.location ?? body.data?.url ?? body.file?.url ?? first(body.data?.succMap) ?? plainUrl;
  const fileId = file.file_id ?? body.file_id ?? (plain.startsWith("cloud://") ? plain : undefined);
  return {
    url,
    fileId,
    path: file.path ?? pathOf(url, fileId),
    size: file.size,
    type: file.content_type,
    crc64: file.crc64,
    verified: file.verified,
    requestId,
    timing,
    raw: text,
  };
}

/** Some editors read only 2xx responses, so their errors are sent with HTTP 200. */
const hasError = (body) =>
  Boolean(body.errno) || body.success === 0 || typeof body.code === "number" && body.code !== 0 ||
  "state" in body && body.state !== "SUCCESS" || Boolean(body.files?.[0]?.error);

function parse(text) {
  try {
    const body = JSON.parse(text);
    return body && typeof body === "object" ? body : {};
  } catch {
    return {};
  }
}

const first = (map) => map && Object.values(map)[0];

function pathOf(url, fileId) {
  // cloud://ENV.BUCKET/PATH
  if (fileId) return fileId.split("/").slice(3).join("/");
  const encoded = url?.split("/v1/files/")[1]?.split("?")[0];
  return encoded && decodeURIComponent(encoded);
}
