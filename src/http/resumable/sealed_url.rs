//! The URL of an upload: it contains all that the gateway must know of the upload, sealed, so that any replica with the
//! same keys can continue it.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Bytes of a sealed URL's last segment at most: a path of 850 bytes and metadata of 2 KiB take less than 5 KiB.
const MAX_LENGTH: usize = 8 * 1024;

/// What is known of an upload from its creation on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedUpload {
    /// Names the upload in the log, and its helper objects at COS.
    pub id: [u8; 16],
    /// The object's key.
    pub key: String,
    pub place: Place,
    /// In bytes; `None`: told later.
    pub length: Option<u64>,
    /// In bytes, by the policy of the client that created it.
    pub max_length: u64,
    /// The [`id`](crate::guard::policy::Client::id) of that client.
    pub client: String,
    /// The file's name, and the type that the client declared for it.
    pub name: String,
    pub declared_type: Option<String>,
    /// The type that it is stored as.
    pub content_type: String,
    /// `Upload-Metadata` as it was sent.
    pub metadata: String,
    /// Unix time in seconds.
    pub expires: i64,
}

/// Where the bytes of an upload are until all of them are there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// At COS.
    Cos {
        /// Of COS's multipart upload; empty for an empty file.
        upload_id: String,
        /// `cloud://…`
        file_id: String,
        /// In bytes.
        part_size: u64,
    },
    /// At the gateway that created it.
    Gateway {
        /// No other file was ever stored at the key.
        is_key_unique: bool,
    },
}

/// The keys that seal uploads: the first seals, all of them open.
#[derive(Clone)]
pub struct SealingKeys(Arc<[LessSafeKey]>);

impl SealingKeys {
    /// Without `secrets`, one key is made that no other process knows.
    pub fn new(secrets: &[SecretString]) -> Self {
        let derive = |secret: &[u8]| {
            let mut hash = Sha256::new_with_prefix("tcb-upload-gateway resumable upload\0");
            hash.update(secret);
            key(hash.finalize().into())
        };
        let keys = match secrets {
            [] => vec![key(rand_bytes())],
            secrets => {
                secrets.iter().map(|secret| derive(secret.expose_secret().as_bytes())).collect()
            }
        };
        Self(keys.into())
    }

    /// The URL's last segment: characters that need no encoding.
    pub fn seal(&self, upload: &SealedUpload) -> Option<String> {
        let mut bytes = serde_json::to_vec(upload).ok()?;
        let nonce: [u8; NONCE_LEN] = rand_bytes();
        let sealing = Nonce::assume_unique_for_key(nonce);
        self.0.first()?.seal_in_place_append_tag(sealing, Aad::empty(), &mut bytes).ok()?;
        let sealed = URL_SAFE_NO_PAD.encode([&nonce[..], &bytes].concat());
        (sealed.len() <= MAX_LENGTH).then_some(sealed)
    }

    /// `None` where the segment was not sealed with one of the keys, or was changed.
    pub fn open(&self, sealed: &str) -> Option<SealedUpload> {
        if sealed.len() > MAX_LENGTH {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>()?;
        self.0.iter().find_map(|key| {
            let mut bytes = sealed.to_vec();
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let opened = key.open_in_place(nonce, Aad::empty(), &mut bytes).ok()?;
            serde_json::from_slice(opened).ok()
        })
    }
}

fn key(bytes: [u8; 32]) -> LessSafeKey {
    let key = UnboundKey::new(&AES_256_GCM, &bytes);
    LessSafeKey::new(key.expect("AES-256 has keys of 32 bytes"))
}

fn rand_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system has random numbers");
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(secrets: &[&str]) -> SealingKeys {
        let secrets: Vec<SecretString> = secrets.iter().map(|secret| (*secret).into()).collect();
        SealingKeys::new(&secrets)
    }

    fn upload() -> SealedUpload {
        SealedUpload {
            id: [7; 16],
            key: "目录/文件.mp4".to_owned(),
            place: Place::Cos {
                upload_id: "1484727259f".to_owned(),
                file_id: "cloud://env.bucket/目录/文件.mp4".to_owned(),
                part_size: 1 << 20,
            },
            length: Some(5 << 30),
            max_length: 5 << 30,
            client: "key:panel".to_owned(),
            name: "文件.mp4".to_owned(),
            declared_type: None,
            content_type: "video/mp4".to_owned(),
            metadata: "filename 5paH".to_owned(),
            expires: 1_800_000_000,
        }
    }

    #[test]
    fn keys_are_rotated() {
        let (old, new) = (keys(&["old"]), keys(&["new", "old"]));
        let sealed = old.seal(&upload()).unwrap();
        assert_eq!(new.open(&sealed), Some(upload()));
        assert_eq!(old.open(&new.seal(&upload()).unwrap()), None);
        assert_eq!(keys(&[]).open(&keys(&[]).seal(&upload()).unwrap()), None);
    }

    #[test]
    fn the_same_upload_is_sealed_differently_each_time_and_shows_nothing() {
        let keys = keys(&["key"]);
        let [one, other] = [(); 2].map(|()| keys.seal(&upload()).unwrap());
        assert_ne!(one, other);
        assert!(!one.contains("1484727259f"));
        assert!(
            keys.seal(&SealedUpload { metadata: "x".repeat(MAX_LENGTH), ..upload() }).is_none()
        );
    }

    proptest! {
        #[test]
        fn a_changed_url_does_not_open(at in any::<prop::sample::Index>(), by in 1_u8..=255, text: String) {
            let keys = keys(&["key"]);
            let mut bytes = URL_SAFE_NO_PAD.decode(keys.seal(&upload()).unwrap()).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= by;
            prop_assert_eq!(keys.open(&URL_SAFE_NO_PAD.encode(&bytes)), None);
            prop_assert_eq!(keys.open(&text), None);
        }
    }
}
