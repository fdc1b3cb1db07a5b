//! TLS records that are encrypted out of the plaintext's buffer. rustls copies each record's plaintext and encrypts the
//! copy in place (its unbuffered API copies the result once more); here AES-GCM reads the plaintext where it is and
//! writes the record, so that a file's bytes are touched once less.
//!
//! Only this is replaced: keys, nonces and additional data are made as rustls' own cipher suites make them.

use std::iter::repeat_n;
use std::sync::LazyLock;

use ::aws_lc_rs::aead::{self, AES_128_GCM, AES_256_GCM, Aad, TlsProtocolId, TlsRecordSealingKey};
use rustls::crypto::cipher::{
    AeadKey, Iv, KeyBlockShape, MessageDecrypter, MessageEncrypter, Nonce, OutboundChunks,
    OutboundOpaqueMessage, OutboundPlainMessage, PrefixedPayload, Tls12AeadAlgorithm,
    Tls13AeadAlgorithm, UnsupportedOperationError, make_tls12_aad, make_tls13_aad,
};
use rustls::crypto::{CipherSuiteCommon, aws_lc_rs};
use rustls::{
    CipherSuite, ConnectionTrafficSecrets, ContentType, Error, ProtocolVersion,
    SupportedCipherSuite, Tls12CipherSuite, Tls13CipherSuite,
};

/// Bytes of a tag of AES-GCM.
const TAG: usize = 16;
/// Bytes of each TLS 1.2 record that tell its nonce.
const EXPLICIT_NONCE: usize = 8;

/// The cipher suites of rustls, in its order of preference; those of AES-GCM seal without a copy.
pub fn cipher_suites() -> Vec<SupportedCipherSuite> {
    static SUITES: LazyLock<Vec<SupportedCipherSuite>> =
        LazyLock::new(|| aws_lc_rs::DEFAULT_CIPHER_SUITES.iter().copied().map(replaced).collect());
    SUITES.clone()
}

/// rustls takes suites that live as long as the process: each is made once.
fn replaced(suite: SupportedCipherSuite) -> SupportedCipherSuite {
    let Some(algorithm) = algorithm(suite.suite()) else { return suite };
    match suite {
        SupportedCipherSuite::Tls13(suite) => {
            let aead_alg = Box::leak(Box::new(Gcm { algorithm, rustls: suite.aead_alg }));
            let Tls13CipherSuite { ref common, hkdf_provider, quic, .. } = *suite;
            let common = copy(common);
            let suite = Tls13CipherSuite { common, hkdf_provider, aead_alg, quic };
            SupportedCipherSuite::Tls13(Box::leak(Box::new(suite)))
        }
        SupportedCipherSuite::Tls12(suite) => {
            let aead_alg = Box::leak(Box::new(Gcm { algorithm, rustls: suite.aead_alg }));
            let Tls12CipherSuite { ref common, prf_provider, kx, sign, .. } = *suite;
            let common = copy(common);
            let suite = Tls12CipherSuite { common, prf_provider, kx, sign, aead_alg };
            SupportedCipherSuite::Tls12(Box::leak(Box::new(suite)))
        }
    }
}

fn copy(common: &CipherSuiteCommon) -> CipherSuiteCommon {
    CipherSuiteCommon {
        suite: common.suite,
        hash_provider: common.hash_provider,
        confidentiality_limit: common.confidentiality_limit,
    }
}

fn algorithm(suite: CipherSuite) -> Option<&'static aead::Algorithm> {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => Some(&AES_128_GCM),
        CipherSuite::TLS13_AES_256_GCM_SHA384
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => Some(&AES_256_GCM),
        _ => None,
    }
}

/// An algorithm of rustls with a sealer of ours.
struct Gcm<Rustls: ?Sized + 'static> {
    algorithm: &'static aead::Algorithm,
    rustls: &'static Rustls,
}

impl<Rustls: ?Sized> Gcm<Rustls> {
    fn sealer(&self, key: &AeadKey, iv: Iv) -> Sealer {
        // As rustls: nonces of both versions of TLS are the IV, XORed with the record's number, and AWS-LC checks that
        // their numbers grow.
        let key = TlsRecordSealingKey::new(self.algorithm, TlsProtocolId::TLS13, key.as_ref());
        Sealer { key: key.expect("a key as long as rustls' algorithm says, which is AES-GCM"), iv }
    }
}

impl Tls13AeadAlgorithm for Gcm<dyn Tls13AeadAlgorithm> {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        Box::new(Tls13Sealer(self.sealer(&key, iv)))
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        self.rustls.decrypter(key, iv)
    }

    fn key_len(&self) -> usize {
        self.rustls.key_len()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.rustls.extract_keys(key, iv)
    }
}

impl Tls12AeadAlgorithm for Gcm<dyn Tls12AeadAlgorithm> {
    /// `iv` has 4 bytes and `explicit` 8, as [`KeyBlockShape`] says of AES-GCM.
    fn encrypter(&self, key: AeadKey, iv: &[u8], explicit: &[u8]) -> Box<dyn MessageEncrypter> {
        Box::new(Tls12Sealer(self.sealer(&key, Iv::copy(&[iv, explicit].concat()))))
    }

    fn decrypter(&self, key: AeadKey, iv: &[u8]) -> Box<dyn MessageDecrypter> {
        self.rustls.decrypter(key, iv)
    }

    fn key_block_shape(&self) -> KeyBlockShape {
        self.rustls.key_block_shape()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: &[u8],
        explicit: &[u8],
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.rustls.extract_keys(key, iv, explicit)
    }
}

struct Sealer {
    key: TlsRecordSealingKey,
    iv: Iv,
}

impl Sealer {
    fn nonce(&self, number: u64) -> Nonce {
        Nonce::new(&self.iv, number)
    }

    /// `prefix`, then the sealed `plaintext` and `suffix`, then the tag.
    fn seal(
        &mut self,
        nonce: Nonce,
        aad: &[u8],
        prefix: &[u8],
        plaintext: &OutboundChunks<'_>,
        suffix: &[u8],
    ) -> Result<PrefixedPayload, Error> {
        let length = prefix.len() + plaintext.len() + suffix.len() + TAG;
        let mut record = PrefixedPayload::with_capacity(length);
        record.extend_from_slice(prefix);
        let nonce = aead::Nonce::assume_unique_for_key(nonce.0);
        let aad = Aad::from(aad);
        let sealed = match contiguous(plaintext) {
            Some(plaintext) => {
                record.extend(repeat_n(&0, length - prefix.len()));
                let (out, rest) = record.as_mut()[prefix.len()..].split_at_mut(plaintext.len());
                self.key.seal_out_of_place_scatter(nonce, aad, plaintext, out, suffix, rest)
            }
            None => {
                record.extend_from_chunks(plaintext);
                record.extend_from_slice(suffix);
                self.key
                    .seal_in_place_separate_tag(nonce, aad, &mut record.as_mut()[prefix.len()..])
                    .map(|tag| record.extend_from_slice(tag.as_ref()))
            }
        };
        sealed.map_err(|_| Error::EncryptError)?;
        Ok(record)
    }
}

/// The plaintext of a record, if it is not put together from several chunks.
fn contiguous<'a>(plaintext: &OutboundChunks<'a>) -> Option<&'a [u8]> {
    match *plaintext {
        OutboundChunks::Single(chunk) => Some(chunk),
        OutboundChunks::Multiple { chunks, mut start, mut end } => {
            for chunk in chunks {
                if start < chunk.len() {
                    return chunk.get(start..end);
                }
                start -= chunk.len();
                end -= chunk.len();
            }
            None
        }
    }
}

struct Tls13Sealer(Sealer);

impl MessageEncrypter for Tls13Sealer {
    fn encrypt(
        &mut self,
        message: OutboundPlainMessage<'_>,
        number: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        let aad = make_tls13_aad(self.encrypted_payload_len(message.payload.len()));
        let content_type = [u8::from(message.typ)];
        let nonce = self.0.nonce(number);
        let record = self.0.seal(nonce, &aad, &[], &message.payload, &content_type)?;
        // RFC 8446, 5.1: what TLS 1.3 encrypts looks like application data of TLS 1.2.
        let (looks, version) = (ContentType::ApplicationData, ProtocolVersion::TLSv1_2);
        Ok(OutboundOpaqueMessage::new(looks, version, record))
    }

    fn encrypted_payload_len(&self, length: usize) -> usize {
        length + 1 + TAG
    }
}

struct Tls12Sealer(Sealer);

impl MessageEncrypter for Tls12Sealer {
    fn encrypt(
        &mut self,
        message: OutboundPlainMessage<'_>,
        number: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        let OutboundPlainMessage { typ, version, payload } = message;
        let aad = make_tls12_aad(number, typ, version, payload.len());
        let nonce = self.0.nonce(number);
        let explicit = nonce.0;
        let explicit = &explicit[explicit.len() - EXPLICIT_NONCE..];
        let record = self.0.seal(nonce, &aad, explicit, &payload, &[])?;
        Ok(OutboundOpaqueMessage::new(typ, version, record))
    }

    fn encrypted_payload_len(&self, length: usize) -> usize {
        EXPLICIT_NONCE + length + TAG
    }
}

#[cfg(test)]
mod tests;
