// A TCP proxy between browser and gateway that breaks on demand.

import { once } from "node:events";
import { connect, createServer } from "node:net";

export async function proxy(upstream) {
  const { hostname, port } = new URL(upstream);
  const connections = new Set();
  let [cutAt, passed, refusing, refusals] = [Infinity, 0, false, 0];
  const counted = { bytes: 0, cuts: 0 };
  const cut = () => connections.forEach(({ client, server }) => [client, server].forEach((socket) => socket.resetAndDestroy()));

  const listener = createServer((client) => {
    if (refusing) {
      refusals += 1;
      listener.emit("refused");
      return client.resetAndDestroy();
    }
    const server = connect(port, hostname);
    const connection = { client, server };
    connections.add(connection);
    client.on("data", (bytes) => {
      counted.bytes += bytes.length;
      passed += bytes.length;
      if (passed < cutAt) return;
      [passed, cutAt] = [0, Infinity];
      counted.cuts += 1;
      cut();
    });
    client.pipe(server).pipe(client);
    for (const socket of [client, server]) {
      socket.on("error", () => {});
      socket.on("close", () => {
        connections.delete(connection);
        client.destroy();
        server.destroy();
      });
    }
  });
  listener.listen(0, "127.0.0.1");
  await once(listener, "listening");

  return {
    url: `http://127.0.0.1:${listener.address().port}`,

    /** Resets all connections once, after so many further bytes to the gateway. */
    cutAfter(bytes) {
      [passed, cutAt] = [0, bytes];
    },

    /** How many bytes came from the browser, and how often connections were cut. */
    counted,

    /** Resets all connections, and each new one. Returns a function that waits until `count` were reset. */
    refuse() {
      [refusing, refusals] = [true, 0];
      cut();
      return async (count) => {
        while (refusals < count) await once(listener, "refused");
      };
    },

    /** Passes no more bytes to the gateway on the open connections. */
    stall() {
      connections.forEach(({ client, server }) => {
        client.unpipe(server);
        client.pause();
      });
    },

    /** Accepts connections again. */
    accept() {
      refusing = false;
    },

    /** Ends all connections, and what was asked for. */
    reset() {
      cut();
      [cutAt, refusing] = [Infinity, false];
    },

    close() {
      cut();
      return new Promise((resolve) => listener.close(resolve));
    },
  };
}
