// The gateway's job as it is usually written in Node: busboy reads the form, undici asks for the link and posts the
// form to COS while the file comes in. The client says the file's size in a field before it.
import cluster from 'node:cluster';
import { randomBytes, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import busboy from 'busboy';
import { Agent, request } from 'undici';

const { PORT, WECHAT, CA, WORKERS = '1' } = process.env;

function field(boundary, name, value) {
  return `--${boundary}\r\nContent-Disposition: form-data; name="${name}"\r\n\r\n${value}\r\n`;
}

function serve() {
  const ca = CA ? readFileSync(CA) : undefined;
  const dispatcher = new Agent({ connections: 256, connect: { ca } });
  const token = request(`${WECHAT}/cgi-bin/stable_token`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ grant_type: 'client_credential', appid: 'wx', secret: 's' }),
    dispatcher,
  }).then(({ body }) => body.json()).then((reply) => reply.access_token);

  async function store(file, info, size) {
    const path = `uploads/${randomUUID()}.jpg`;
    const { body } = await request(`${WECHAT}/tcb/uploadfile?access_token=${await token}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ env: 'bench', path }),
      dispatcher,
    });
    const link = await body.json();
    const boundary = `relay-${randomBytes(16).toString('hex')}`;
    const head = Buffer.from(
      field(boundary, 'key', path)
        + field(boundary, 'Signature', link.authorization)
        + field(boundary, 'x-cos-security-token', link.token)
        + field(boundary, 'x-cos-meta-fileid', link.cos_file_id)
        + field(boundary, 'Content-Type', info.mimeType)
        + `--${boundary}\r\nContent-Disposition: form-data; name="file"; filename="file"\r\n`
        + 'Content-Type: application/octet-stream\r\n\r\n',
    );
    const tail = Buffer.from(`\r\n--${boundary}--\r\n`);
    async function* form() {
      yield head;
      yield* file;
      yield tail;
    }
    const stored = await request(link.url, {
      method: 'POST',
      headers: {
        'content-type': `multipart/form-data; boundary=${boundary}`,
        'content-length': String(head.length + size + tail.length),
      },
      body: form(),
      dispatcher,
    });
    await stored.body.dump();
    if (stored.statusCode !== 204) throw new Error(`COS answered ${stored.statusCode}`);
    return { file_id: link.file_id, path };
  }

  http.createServer({ requestTimeout: 0 }, (req, res) => {
    const answer = (status, reply) => {
      if (res.headersSent) return;
      const text = JSON.stringify(reply);
      res.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) });
      res.end(text);
    };
    const form = busboy({ headers: req.headers, highWaterMark: 256 * 1024, fileHwm: 256 * 1024 });
    let size = 0;
    form.on('field', (name, value) => { if (name === 'size') size = Number(value); });
    form.on('file', (_name, file, info) => {
      store(file, info, size).then((reply) => answer(201, reply), (error) => {
        file.resume();
        answer(502, { error: String(error) });
      });
    });
    form.on('error', (error) => answer(400, { error: String(error) }));
    req.pipe(form);
  }).listen(Number(PORT), '127.0.0.1');
}

if (Number(WORKERS) > 1 && cluster.isPrimary) {
  for (let worker = 0; worker < Number(WORKERS); worker += 1) cluster.fork();
} else {
  serve();
}
