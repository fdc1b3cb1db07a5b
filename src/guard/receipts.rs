//! Receipts: JSON Web Tokens that say what was stored, so that the owner's back end can trust what a browser reports.

use std::collections::BTreeMap;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use super::policy::Client;

/// Bytes of the metadata's names and values in a receipt; larger metadata is left out, since clients send receipts on.
const MAX_METADATA: usize = 1024;

/// The claims of a receipt. It does not expire: the back end judges its age by `iat`.
#[derive(Debug, Serialize)]
struct Claims<'a> {
    /// `cloud://…`
    file_id: &'a str,
    path: &'a str,
    /// In bytes.
    size: u64,
    /// CRC-64/XZ of the bytes, decimal; `None` where it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    crc64: Option<String>,
    /// The user of the ticket, or of the mini program; `None` for other clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<&'a str>,
    /// What the client told of the file besides.
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a BTreeMap<String, String>>,
    /// When it was signed, in Unix seconds.
    iat: u64,
}

/// Signs receipts with `receipts.key`, by HS256.
pub struct ReceiptSigner(EncodingKey);

impl ReceiptSigner {
    pub fn new(key: &SecretString) -> Self {
        Self(EncodingKey::from_secret(key.expose_secret().as_bytes()))
    }

    /// The receipt of a file that `client` has stored. `None` is not expected: HS256 signs with any key.
    pub fn sign(
        &self,
        client: &Client,
        file_id: &str,
        path: &str,
        size: u64,
        crc64: Option<u64>,
        metadata: &BTreeMap<String, String>,
    ) -> Option<String> {
        let bytes: usize = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
        let claims = Claims {
            file_id,
            path,
            size,
            crc64: crc64.map(|crc64| crc64.to_string()),
            sub: client.user(),
            metadata: Some(metadata).filter(|all| !all.is_empty() && bytes <= MAX_METADATA),
            iat: jsonwebtoken::get_current_timestamp(),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.0).ok()
    }
}
