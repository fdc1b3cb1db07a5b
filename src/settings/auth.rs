//! The settings of authentication and permissions: API keys, tickets (JWTs), mini program users, forward-auth, links to
//! files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use actix_web::http::header::HeaderName;
use secrecy::SecretString;

use super::layers::Reader;
use super::names::{Action, JwtAlgorithm, LinkAccess, PassQuery};
use super::preset;
use super::values::{self, COS_MAX_FILE_SIZE, MIN_DURATION, Rate};

#[derive(Clone, Debug)]
pub struct Auth {
    pub anonymous: bool,
    pub trust_wx_headers: bool,
    /// For clients whose own policy has no rate. `None`: no limit.
    pub rate: Option<Rate>,
    /// For all requests from one IP address. `None`: no limit.
    pub address_rate: Option<Rate>,
    /// The permissions of a mini program's user, where `trust_wx_headers` is on.
    pub wx: Policy,
    pub jwt: Jwt,
    pub forward: Forward,
    /// By name: lower-case letters, digits, `-` and `_`. No two have the same hash.
    pub keys: BTreeMap<String, ApiKey>,
}

/// Tickets (JWTs). Without an `algorithm` tickets are off, and no key is set; with one, at least one is, or `jwks_url`,
/// and not both `key` and `key_file`.
#[derive(Clone, Debug)]
pub struct Jwt {
    pub algorithm: Option<JwtAlgorithm>,
    /// HS256's secret, of at least 32 bytes; otherwise a public key in PEM.
    pub key: SecretString,
    pub key_file: Option<PathBuf>,
    /// Further keys by the names that tickets give in their header (`kid`); each is written as `key`.
    pub keys: BTreeMap<String, SecretString>,
    /// The issuer's JSON Web Key Set. Not set for HS256. Without a query and a trailing slash.
    pub jwks_url: Option<String>,
    pub issuer: Option<String>,
    pub audience: Option<String>,
    /// Of tickets that the gateway mints; at least 1 s.
    pub max_ttl: Duration,
    /// The permissions of every ticket; a ticket's claims can only restrict them.
    pub policy: Policy,
}

/// The owner's auth server, which decides about requests without a key or ticket.
#[derive(Clone, Debug)]
pub struct Forward {
    /// Without a query and a trailing slash. `None`: no auth server.
    pub url: Option<String>,
    /// Sent besides `Authorization` and `Cookie`.
    pub headers: Vec<HeaderName>,
    pub timeout: Duration,
    /// Zero: each request is a call, unless an equal one is running.
    pub cache: Duration,
    /// The permissions of every client that it lets in; its claims can only restrict them.
    pub policy: Policy,
}

#[derive(Clone)]
pub struct ApiKey {
    pub sha256: [u8; 32],
    pub policy: Policy,
}

/// The permissions and limits of one kind of client.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Never empty.
    pub can: BTreeSet<Action>,
    /// A folder, without a leading slash and with a trailing one.
    pub prefix: Option<String>,
    /// `None`: as `upload.client_paths`.
    pub client_paths: Option<bool>,
    /// In bytes; the smaller of this and `upload.max_file_size` applies. The same holds for `max_files`.
    pub max_file_size: Option<u64>,
    pub max_files: Option<usize>,
    /// In the form of `upload.allowed_types`; both lists apply.
    pub types: Vec<String>,
    /// `None`: as `auth.rate`.
    pub rate: Option<Rate>,
    /// The name of a quota.
    pub quota: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Links {
    pub access: LinkAccess,
    /// The first key signs, all of them verify. Each has at least 16 characters.
    pub signing_keys: Vec<SecretString>,
    pub max_age: Duration,
    /// By name: one parameter each, as it is appended to a temporary URL.
    pub presets: BTreeMap<String, String>,
    pub pass_query: Vec<PassQuery>,
}

impl Auth {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let mut keys = BTreeMap::new();
        for name in reader.tables("auth.keys") {
            if !is_name(&name) {
                reader.fault(
                    &format!("auth.keys.{name}"),
                    "is not a name for a key: lower-case letters, digits, `-` and `_`",
                );
            }
            let under = format!("auth.keys.{name}");
            let sha256 = reader.required(&format!("{under}.sha256"), values::digest);
            let policy = Policy::read(reader, &under, Action::ALL);
            keys.insert(name, ApiKey { sha256: sha256.unwrap_or_default(), policy });
        }
        Self {
            anonymous: reader.flag("auth.anonymous"),
            trust_wx_headers: reader.flag("auth.trust_wx_headers"),
            rate: reader.optional("auth.rate", values::rate),
            address_rate: reader.optional("auth.address_rate", values::rate),
            wx: Policy::read(reader, "auth.wx", &Action::ON_FILES),
            jwt: Jwt {
                algorithm: reader.optional("auth.jwt.algorithm", str::parse),
                key: reader.optional("auth.jwt.key", values::jwt_key).unwrap_or_default(),
                key_file: reader.optional("auth.jwt.key_file", |text| Ok(PathBuf::from(text))),
                keys: ticket_keys(reader),
                jwks_url: reader.optional("auth.jwt.jwks_url", values::base_url),
                issuer: reader.optional("auth.jwt.issuer", values::text),
                audience: reader.optional("auth.jwt.audience", values::text),
                max_ttl: reader.duration("auth.jwt.max_ttl", Duration::from_secs(1)),
                policy: Policy::read(reader, "auth.jwt", &Action::ON_FILES),
            },
            forward: Forward {
                url: reader.optional("auth.forward_url", values::base_url),
                headers: reader.list("auth.forward_headers", forwarded_header),
                timeout: reader.duration("auth.forward_timeout", Duration::from_millis(100)),
                cache: reader.duration("auth.forward_cache", Duration::ZERO),
                policy: Policy::read(reader, "auth.forward", &Action::ON_FILES),
            },
            keys,
        }
    }
}

fn ticket_keys(reader: &mut Reader) -> BTreeMap<String, SecretString> {
    let names = reader.names("auth.jwt.keys");
    let read = |name: String| {
        let value = reader.optional(&format!("auth.jwt.keys.{name}"), values::jwt_key)?;
        Some((name, value))
    };
    names.into_iter().filter_map(read).collect()
}

/// The name of a header that is sent on to the auth server. Those that the gateway writes itself, or that belong to one
/// connection or to the body, cannot be.
fn forwarded_header(text: &str) -> Result<HeaderName, String> {
    const OWN: [&str; 11] = [
        "accept",
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    let name = HeaderName::from_bytes(text.as_bytes())
        .map_err(|_| "is not the name of a header".to_owned())?;
    match OWN.contains(&name.as_str()) || name.as_str().starts_with("x-forwarded-") {
        true => Err("is a header that the gateway writes itself".to_owned()),
        false => Ok(name),
    }
}

impl Policy {
    /// `all`: the actions that this kind of client can be permitted.
    fn read(reader: &mut Reader, under: &str, all: &[Action]) -> Self {
        let key = |name: &str| format!("{under}.{name}");
        let can = key("can");
        let actions = reader.optional_list(&can, str::parse);
        // An empty list must neither mean all actions, nor make a key that can do nothing.
        if actions.as_ref().is_some_and(Vec::is_empty) && reader.is_valid(&[&can]) {
            reader.fault(&can, "is empty; leave it out to allow everything");
        }
        if actions.as_ref().is_some_and(|actions| !actions.iter().all(|one| all.contains(one))) {
            reader.fault(&can, "has \"mint\", which only keys can be permitted");
        }
        let types = reader.optional_list(&key("types"), values::media_type);
        Self {
            can: actions.unwrap_or_else(|| all.to_vec()).into_iter().collect(),
            prefix: reader.optional(&key("prefix"), values::folder),
            client_paths: reader.optional_flag(&key("client_paths")),
            max_file_size: reader.optional_size(&key("max_file_size"), 1..=COS_MAX_FILE_SIZE),
            max_files: reader.optional_number(&key("max_files"), 1..=10_000).map(|n| n as usize),
            types: types.unwrap_or_default(),
            rate: reader.optional(&key("rate"), values::rate),
            quota: reader.optional(&key("quota"), values::text),
        }
    }
}

/// Whether a text can name a key or a preset. Names from environment variables are in lower case; a name must not have
/// two spellings.
fn is_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b);
    !text.is_empty() && text.bytes().all(allowed)
}

impl Links {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let mut presets = BTreeMap::new();
        for name in reader.names("links.presets") {
            let key = format!("links.presets.{name}");
            let value = reader.optional(&key, preset::parse);
            if !is_name(&name) {
                reader.fault(
                    &key,
                    "is not a name for a preset: lower-case letters, digits, `-` and `_`",
                );
            }
            presets.extend(value.map(|value| (name, value)));
        }
        Self {
            presets,
            pass_query: reader.list("links.pass_query", str::parse),
            access: reader.required("links.access", str::parse).unwrap_or(LinkAccess::Public),
            signing_keys: reader.list("links.signing_keys", values::signing_key),
            max_age: reader.duration("links.max_age", MIN_DURATION),
        }
    }
}

/// Without the hash: a reader of the logs could try out keys against it.
impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("policy", &self.policy).finish_non_exhaustive()
    }
}
