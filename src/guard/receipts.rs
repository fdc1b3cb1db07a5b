//! Receipts: JSON Web Tokens that say what was stored, so that the owner's back end can trust what a browser reports.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use super::policy::Client;

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
    ) -> Option<String> {
        let claims = Claims {
            file_id,
            path,
            size,
            crc64: crc64.map(|crc64| crc64.to_string()),
            sub: client.user(),
            iat: jsonwebtoken::get_current_timestamp(),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.0).ok()
    }
}
