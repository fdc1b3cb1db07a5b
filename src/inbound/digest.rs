//! Digests of the body in a request's headers (RFC 1864, RFC 9530), checked while the body is streamed.

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine;
use futures::{StreamExt, stream};
use md5::Md5;
use sha2::{Digest, Sha256, Sha512};

use super::encoding::BASE64;
use super::error::InboundError;
use crate::file_stream::{FileEvent, Source};

const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");
/// The digest of the bytes sent, and of the file. Both are the same here: the body is the whole file and has no
/// Content-Encoding.
const DIGEST_HEADERS: [HeaderName; 2] =
    [HeaderName::from_static("content-digest"), HeaderName::from_static("repr-digest")];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Md5,
    Sha256,
    Sha512,
}

impl Algorithm {
    /// By its key in a header (RFC 9530 5). `None` for other algorithms, which are not checked.
    fn from_key(name: &str) -> Option<Self> {
        let known = [Self::Md5, Self::Sha256, Self::Sha512];
        known.into_iter().find(|algorithm| name.eq_ignore_ascii_case(algorithm.name()))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha256 => "sha-256",
            Self::Sha512 => "sha-512",
        }
    }

    /// The digest's length in bytes.
    fn length(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    fn hasher(self) -> Hasher {
        match self {
            Self::Md5 => Hasher::Md5(Md5::new()),
            Self::Sha256 => Hasher::Sha256(Sha256::new()),
            Self::Sha512 => Hasher::Sha512(Sha512::new()),
        }
    }
}

enum Hasher {
    Md5(Md5),
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Md5(hasher) => hasher.update(bytes),
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    fn digest(self) -> Vec<u8> {
        match self {
            Self::Md5(hasher) => hasher.finalize().to_vec(),
            Self::Sha256(hasher) => hasher.finalize().to_vec(),
            Self::Sha512(hasher) => hasher.finalize().to_vec(),
        }
    }
}

/// A digest that the body must have.
struct ExpectedDigest {
    header: HeaderName,
    algorithm: Algorithm,
    digest: Vec<u8>,
}

/// The digests that a request's headers give for its body: at most one for each algorithm.
pub struct Digests(Vec<ExpectedDigest>);

impl Digests {
    /// Reads `Content-MD5`, `Content-Digest` and `Repr-Digest`; `None` where there is nothing to check.
    pub fn from_headers(headers: &HeaderMap) -> Result<Option<Self>, InboundError> {
        let mut digests = Self(Vec::new());
        for value in headers.get_all(&CONTENT_MD5) {
            digests.add(&CONTENT_MD5, Algorithm::Md5, text(&CONTENT_MD5, value)?)?;
        }
        for header in &DIGEST_HEADERS {
            for value in headers.get_all(header) {
                for (name, value) in members(header, text(header, value)?)? {
                    let Some(algorithm) = Algorithm::from_key(name) else { continue };
                    // A member may have parameters after the second colon. None are defined, so they are ignored.
                    let bytes = value.strip_prefix(':').and_then(|rest| rest.split_once(':'));
                    let (base64, _) = bytes.ok_or_else(|| malformed(header, algorithm))?;
                    digests.add(header, algorithm, base64)?;
                }
            }
        }
        Ok(Some(digests).filter(|digests| !digests.0.is_empty()))
    }

    fn add(
        &mut self,
        header: &HeaderName,
        algorithm: Algorithm,
        base64: &str,
    ) -> Result<(), InboundError> {
        let digest = BASE64.decode(base64.trim()).ok();
        let digest = digest.filter(|digest| digest.len() == algorithm.length());
        let digest = digest.ok_or_else(|| malformed(header, algorithm))?;
        match self.0.iter().find(|known| known.algorithm == algorithm) {
            Some(known) if known.digest == digest => {}
            Some(_) => {
                let name = algorithm.name();
                return Err(InboundError::Digest(format!(
                    "two different {name} digests are given"
                )));
            }
            None => self.0.push(ExpectedDigest { header: header.clone(), algorithm, digest }),
        }
        Ok(())
    }
}

fn malformed(header: &HeaderName, algorithm: Algorithm) -> InboundError {
    let (name, length) = (algorithm.name(), algorithm.length());
    let syntax = if *header == CONTENT_MD5 { "" } else { ", between colons" };
    InboundError::Digest(format!(
        "{header} does not hold the {name} digest's {length} bytes in base64{syntax}"
    ))
}

fn text<'v>(header: &HeaderName, value: &'v HeaderValue) -> Result<&'v str, InboundError> {
    value.to_str().map_err(|_| InboundError::Digest(format!("{header} is not ASCII")))
}

/// The members of a dictionary (RFC 8941 3.2). Only byte sequences matter here, but a string may contain a comma, so
/// quotes are respected. Empty members are left out.
fn members<'v>(
    header: &HeaderName,
    text: &'v str,
) -> Result<Vec<(&'v str, &'v str)>, InboundError> {
    let mut members = Vec::new();
    let mut quoted = false;
    let outside = |character: char| {
        quoted ^= character == '"';
        character == ',' && !quoted
    };
    for member in text.split(outside).map(str::trim).filter(|member| !member.is_empty()) {
        let (name, value) = member.split_once('=').unwrap_or((member, ""));
        let is_key = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.*".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_key) {
            let detail = format!("{header} is not a list of `algorithm=:base64:`");
            return Err(InboundError::Digest(detail));
        }
        members.push((name, value));
    }
    Ok(members)
}

/// `source`, which fails with [`InboundError::DigestMismatch`] instead of ending if its content has another digest.
pub fn verified(source: Source, digests: Digests) -> Source {
    let checks: Vec<_> = digests
        .0
        .into_iter()
        .map(|expected| {
            let hasher = expected.algorithm.hasher();
            (expected, hasher)
        })
        .collect();
    Box::pin(stream::unfold((source, checks), |(mut source, mut checks)| async move {
        let event = match source.next().await? {
            Ok(FileEvent::End(end)) => {
                let wrong = checks
                    .drain(..)
                    .find_map(|(expected, hasher)| mismatch(&expected, &hasher.digest()));
                wrong.map_or(Ok(FileEvent::End(end)), |error| Err(error.into()))
            }
            Ok(FileEvent::Content(bytes)) => {
                checks.iter_mut().for_each(|(_, hasher)| hasher.update(&bytes));
                Ok(FileEvent::Content(bytes))
            }
            Err(error) => Err(error),
        };
        Some((event, (source, checks)))
    }))
}

fn mismatch(expected: &ExpectedDigest, digest: &[u8]) -> Option<InboundError> {
    (expected.digest != digest).then(|| InboundError::DigestMismatch {
        header: expected.header.to_string(),
        algorithm: expected.algorithm.name(),
        got: BASE64.encode(digest),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY_MD5: &str = "1B2M2Y8AsgTpgAmY7PhCfg==";
    const EMPTY_SHA256: &str = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";

    fn count(lines: &[(&'static str, &str)]) -> Result<usize, InboundError> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let value = HeaderValue::from_str(value).expect("a value");
            headers.append(HeaderName::from_static(name), value);
        }
        Digests::from_headers(&headers).map(|digests| digests.map_or(0, |digests| digests.0.len()))
    }

    #[test]
    fn digests_are_read_as_the_standards_write_them() {
        let sha256 = format!("sha-256=:{EMPTY_SHA256}:");
        for (lines, expected) in [
            (vec![], 0),
            (vec![("content-md5", EMPTY_MD5)], 1),
            (vec![("content-md5", EMPTY_MD5.trim_end_matches('='))], 1),
            (vec![("content-digest", sha256.as_str())], 1),
            (vec![("content-digest", sha256.as_str()), ("repr-digest", sha256.as_str())], 1),
            (vec![("content-digest", &format!("{sha256};x=1 , md5=:{EMPTY_MD5}:"))], 2),
            (vec![("repr-digest", &format!("a=\"1,2\", b, {sha256},"))], 1),
            (
                vec![(
                    "content-digest",
                    &sha256.to_uppercase().replacen(&EMPTY_SHA256.to_uppercase(), EMPTY_SHA256, 1),
                )],
                1,
            ),
            // Algorithms that are not checked.
            (vec![("content-digest", "unixsum=30637, crc32c=:AAAAAA==:, sha=x")], 0),
            (vec![("content-digest", "")], 0),
        ] {
            assert_eq!(count(&lines), Ok(expected), "{lines:?}");
        }
    }

    #[test]
    fn malformed_digests_are_refused() {
        for (name, value) in [
            ("content-md5", ""),
            ("content-md5", "d41d8cd98f00b204e9800998ecf8427e"),
            ("content-md5", "not base64!"),
            ("content-md5", EMPTY_SHA256),
            ("content-digest", "sha-256"),
            ("content-digest", "sha-256="),
            ("content-digest", EMPTY_SHA256),
            ("content-digest", &format!("sha-256={EMPTY_SHA256}")),
            ("content-digest", &format!("sha-256=:{EMPTY_SHA256}")),
            ("content-digest", &format!("sha-256=:{EMPTY_MD5}:")),
            ("repr-digest", &format!("sha-256=\"{EMPTY_SHA256}\"")),
            ("repr-digest", "sha-512=:AAAA:"),
            ("repr-digest", "md5=::"),
        ] {
            assert!(count(&[(name, value)]).is_err(), "{name}: {value}");
        }
        let md5 =
            [("content-md5", EMPTY_MD5), ("content-digest", "md5=:AAAAAAAAAAAAAAAAAAAAAA==:")];
        assert!(count(&md5).is_err(), "they differ");
    }
}
