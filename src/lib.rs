//! Streams files from browsers and apps into WeChat CloudBase storage (Tencent COS) through one endpoint.
//!
//! # One upload
//!
//! 1. `server`: accepts the connection, within the limits, and reads the request's head.
//! 2. `http/middleware`: checks the origin, gives the request an id, logs it, discards the rest of an unwanted body for a limited time.
//! 3. `guard`: authenticates the client, its rights and rates, before a byte of the body is read.
//! 4. `inbound`: the form's fields, then the file's bytes as they arrive, with what is known of their length.
//! 5. `key`: the object's path, the client's own or the template's.
//! 6. `wechat`: an upload link for that path, by an access token that all workers share.
//! 7. `cos`: the form for COS with its exact length. Its last delimiter is sent only after everything up to the next
//!    file, or to the body's end, was read and is valid. COS's response is read while the form is still being sent.
//! 8. `http/response`: the file's id and a stable URL, in the shape that the client reads.
//!
//! In memory there is only a bounded window of each file's beginning, so that a failed attempt can be repeated.
//!
//! # Folders
//!
//! Imports go one way: cli > app > http > guard, inbound, wechat, cos, hooks, quota > server, net, memory, settings.
//!
//! | folder | what to find there |
//! |---|---|
//! | `cli` | the commands: upload, hash-key, doctor |
//! | `app` | builds the gateway from its settings and serves until a signal (`shutdown`) |
//! | `http` | API and upload handlers, the table of problems (`problem`), routes, OpenAPI, the console |
//! | `http/middleware` | refusal of a foreign Origin (`origin`), lingering close (`request`, `request_body`) |
//! | `http/response` | response shapes of editors: wangEditor and others (`editors`), profiles (`profile`) |
//! | `guard`, `quota` | API keys, tickets, rates, idempotency, signed file URLs; what clients have stored and reserved |
//! | `inbound` | multipart and raw bodies: Content-Length (`body`), parts of a form (`form`), size limit (`limit`) |
//! | `wechat` | calls to WeChat; access tokens: `token/cache`, the lease between replicas (`token/redis`) |
//! | `cos` | upload to COS: forms whose announced length is checked (`replayable_file`), its own API (`api`), responses |
//! | `spool` | files that are kept until they can be sent, in memory or in a folder: resumable uploads by forms |
//! | `hooks` | events for the owner's back end: signatures, queues in memory and in Redis, delivery |
//! | `server` | sockets, TLS, connection limits, h2 floods; `h1`: heads, bodies, lingering close (`reader_io`) |
//! | `net`, `memory` | TLS set-up, the HTTP/1.1 client, timers; the memory budget, replay buffers, the buffer pool |
//! | `settings` | files and environment, checks, defaults |
//! | `sandbox` | stand-ins for WeChat and COS |
//! | files | `file_stream`: what `inbound` gives and `cos` takes; `key`: object paths; `metrics`; `telemetry`: the log, spans |

pub mod app;
pub mod cli;
pub mod cos;
pub mod file_stream;
pub mod guard;
pub mod hooks;
pub mod http;
pub mod inbound;
pub mod key;
pub mod memory;
pub mod metrics;
pub mod net;
pub mod quota;
#[cfg(feature = "sandbox")]
pub mod sandbox;
pub mod server;
pub mod settings;
pub mod shutdown;
pub mod spool;
pub mod telemetry;
pub mod wechat;
