// The panel: Express with cookie sessions, users' photos as rows in SQLite. The gateway asks it about each request
// (`/upload-auth`) and tells it of each stored or deleted file (`/events`); its pages upload to the gateway themselves.

import { EventEmitter, once } from "node:events";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

import Database from "better-sqlite3";
import express from "express";
import session from "express-session";
import { Webhook, WebhookVerificationError } from "standardwebhooks";

const HERE = fileURLToPath(new URL("./", import.meta.url));
const TUS = fileURLToPath(new URL("../node_modules/tus-js-client/dist/tus.min.js", import.meta.url));

const TABLES = `
  create table if not exists sessions (id text primary key, data text not null);
  create table if not exists events (id text primary key);
  create table if not exists photos (
    path text primary key, owner text not null, name text, size integer not null, upload_id text not null unique
  );
`;

/** Sessions in SQLite, so that they outlive the panel. */
class Sessions extends session.Store {
  constructor(rows) {
    super();
    this.found = rows.prepare("select data from sessions where id = ?").pluck();
    this.put = rows.prepare("insert or replace into sessions values (?, ?)");
    this.removed = rows.prepare("delete from sessions where id = ?");
  }

  get(id, done) {
    const data = this.found.get(id);
    done(null, data ? JSON.parse(data) : null);
  }

  set(id, data, done) {
    this.put.run(id, JSON.stringify(data));
    done(null);
  }

  destroy(id, done) {
    this.removed.run(id);
    done?.(null);
  }
}

/**
 * A panel that is not started yet. `users` are passwords by name; `ttl` is how many seconds its tickets are valid.
 * `gateway` has its URL for pages and for the panel, and the panel's key.
 */
export class Panel {
  gateway = {};
  /** The events that the gateway sent, with their ids. */
  events = [];
  /** The tickets that were minted. */
  tickets = [];
  #port = 0;
  #changed = new EventEmitter();

  constructor(settings) {
    Object.assign(this, settings);
  }

  /** Listens, the second time at the same port, with the rows and sessions of before. */
  async start() {
    this.rows = new Database(this.database);
    this.rows.exec(TABLES);
    this.server = this.#app().listen(this.#port, "127.0.0.1");
    await once(this.server, "listening");
    this.#port = this.server.address().port;
    this.origin = `http://127.0.0.1:${this.#port}`;
  }

  /** Ends every connection, as if it had been killed. */
  async stop() {
    this.server.close();
    this.server.closeAllConnections();
    await once(this.server, "close");
    this.rows.close();
  }

  /** A user's photos, in the order of their paths. */
  photos(user) {
    return this.rows.prepare("select * from photos where owner = ? order by path").all(user);
  }

  #app() {
    const app = express();
    app.post("/events", express.raw({ type: "application/json" }), (request, response) => this.#event(request, response));
    app.use(session({
      name: "panel",
      secret: this.sessionSecret,
      store: new Sessions(this.rows),
      resave: false,
      saveUninitialized: false,
      cookie: { httpOnly: true, sameSite: "lax" },
    }));
    app.get("/upload-auth", ({ session: { user } }, response) => {
      if (!user) return response.status(401).json({ detail: "Your session has ended: log in again." });
      response.json({ sub: user, prefix: `users/${user}/` });
    });
    app.post("/login", express.urlencoded({ extended: false }), (request, response, next) => {
      const { user, password } = request.body;
      if (this.users[user] !== password) return response.status(401).send("wrong name or password");
      // A new id: the one from before the login may be known to others.
      request.session.regenerate((error) => {
        if (error) return next(error);
        request.session.user = user;
        response.redirect(303, "/photos");
      });
    });
    app.post("/logout", ({ session }, response, next) => {
      session.destroy((error) => {
        if (error) return next(error);
        // Otherwise the gateway's cached decision lets this browser in until `auth.forward_cache` is over.
        response.clearCookie("panel").sendStatus(204);
      });
    });
    app.get("/rows", this.#loggedIn, ({ session }, response) => response.json(this.photos(session.user)));
    app.get("/changes", this.#loggedIn, (request, response) => this.#changes(request, response));
    app.post("/ticket", this.#loggedIn, ({ session }, response, next) => this.#ticket(session.user, response).catch(next));
    app.get("/tus.js", (_, response) => response.sendFile(TUS));
    for (const script of ["photos.js", "editor.js"]) app.get(`/${script}`, (_, response) => response.sendFile(HERE + script));
    for (const page of ["login", "photos", "editor"]) {
      app.get(`/${page}`, async (_, response) => {
        const html = await readFile(`${HERE}${page}.html`, "utf8");
        response.type("html").send(html.replace("GATEWAY", this.gateway.public));
      });
    }
    return app;
  }

  #loggedIn({ session }, response, next) {
    if (session.user) next();
    else response.status(401).json({ detail: "Your session has ended: log in again." });
  }

  /** Changes the rows as an event says. A repeated event changes nothing. */
  #event({ body, headers }, response) {
    let event;
    try {
      event = new Webhook(this.hookSecret).verify(body, headers);
    } catch (error) {
      if (error instanceof WebhookVerificationError) return response.sendStatus(401);
      throw error;
    }
    const id = headers["webhook-id"];
    const { type, data } = event;
    let owner = data.sub;
    const change = this.rows.transaction(() => {
      if (!this.rows.prepare("insert or ignore into events values (?)").run(id).changes) return;
      if (type === "file.deleted") {
        // Also a key can have deleted it.
        owner = this.rows.prepare("delete from photos where path = ? returning owner").pluck().get(data.path);
        return;
      }
      const { path, sub, name, size, upload_id } = data;
      this.rows.prepare("insert or replace into photos values (?, ?, ?, ?, ?)").run(path, sub, name, size, upload_id);
    });
    change();
    this.events.push({ id, type, data, signature: headers["webhook-signature"] });
    response.sendStatus(204);
    if (owner) this.#changed.emit(owner);
  }

  /** Tells a page that its user's rows have changed, until it is left. */
  #changes({ session }, response) {
    response.type("text/event-stream").write("retry: 50\ndata:\n\n");
    const tell = () => response.write("data:\n\n");
    this.#changed.on(session.user, tell);
    response.on("close", () => this.#changed.off(session.user, tell));
  }

  async #ticket(user, response) {
    const minted = await fetch(`${this.gateway.url}/v1/tickets`, {
      method: "POST",
      headers: { authorization: `Bearer ${this.gateway.key}`, "content-type": "application/json" },
      body: JSON.stringify({ sub: user, can: ["upload"], prefix: `users/${user}/`, ttl: this.ttl }),
    });
    if (!minted.ok) throw new Error(`POST /v1/tickets: ${minted.status} ${await minted.text()}`);
    const { ticket } = await minted.json();
    this.tickets.push(ticket);
    response.json({ ticket });
  }
}
