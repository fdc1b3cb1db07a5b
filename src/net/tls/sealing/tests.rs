use std::io::{IoSlice, Read, Write};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    SupportedProtocolVersion,
};

use super::*;

/// A client with one cipher suite of ours, connected to a server with rustls' own.
fn connected(suite: SupportedCipherSuite) -> Connected {
    let is_rsa = format!("{:?}", suite.suite()).contains("_RSA_");
    let algorithm = if is_rsa { &rcgen::PKCS_RSA_SHA256 } else { &rcgen::PKCS_ECDSA_P256_SHA256 };
    let key = rcgen::KeyPair::generate_for(algorithm).expect("a key");
    let versions: &[&'static SupportedProtocolVersion] = &[suite.version()];
    let certificate = rcgen::CertificateParams::new(["localhost".to_owned()])
        .and_then(|parameters| parameters.self_signed(&key))
        .expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).expect("a root");
    let mut provider = aws_lc_rs::default_provider();
    let server = ServerConfig::builder_with_provider(Arc::new(provider.clone()))
        .with_protocol_versions(versions)
        .expect("a version")
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from(certificate.der().to_vec())],
            PrivateKeyDer::try_from(key.serialize_der()).expect("a key"),
        )
        .expect("a certificate");
    provider.cipher_suites = vec![suite];
    let client = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .expect("a version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "localhost".try_into().expect("a name");
    let mut connected = Connected {
        client: ClientConnection::new(Arc::new(client), name).expect("a client"),
        server: ServerConnection::new(Arc::new(server)).expect("a server"),
        wire: 0,
    };
    while connected.client.is_handshaking() || connected.server.is_handshaking() {
        connected.exchange();
    }
    connected
}

struct Connected {
    client: ClientConnection,
    server: ServerConnection,
    /// Bytes that the client has sent.
    wire: usize,
}

impl Connected {
    /// Returns what the server has decrypted.
    fn exchange(&mut self) -> Vec<u8> {
        let mut sent = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut sent).expect("a buffer");
        }
        self.wire += sent.len();
        let mut received = Vec::new();
        let mut rest = &sent[..];
        while !rest.is_empty() {
            self.server.read_tls(&mut rest).expect("a buffer");
            let state = self.server.process_new_packets().expect("records that are sealed right");
            let start = received.len();
            received.resize(start + state.plaintext_bytes_to_read(), 0);
            self.server.reader().read_exact(&mut received[start..]).expect("as many bytes");
        }
        let mut sent = Vec::new();
        while self.server.wants_write() {
            self.server.write_tls(&mut sent).expect("a buffer");
        }
        let mut rest = &sent[..];
        while !rest.is_empty() {
            self.client.read_tls(&mut rest).expect("a buffer");
            self.client.process_new_packets().expect("records of rustls");
        }
        received
    }
}

fn ours() -> impl Iterator<Item = SupportedCipherSuite> {
    cipher_suites().into_iter().filter(|suite| algorithm(suite.suite()).is_some())
}

#[test]
fn rustls_opens_the_records_of_every_suite_however_the_plaintext_lies() {
    assert_eq!(ours().count(), 6);
    let text: Vec<u8> = (0..200_000_u32).map(|number| (number % 251) as u8).collect();
    for suite in ours() {
        let mut connected = connected(suite);
        let negotiated = connected.client.negotiated_cipher_suite().expect("a suite");
        assert_eq!(negotiated.suite(), suite.suite());
        connected.client.set_buffer_limit(None);
        // Lengths of the chunks of one write: one record, exactly one, several; chunks that end within records, at
        // their ends and that are empty.
        for lengths in [
            &[1][..],
            &[16_384],
            &[16_385],
            &[100_000],
            &[16_384, 16_384],
            &[300, 16_084, 5, 40_000],
            &[0, 70_000, 0, 0, 1, 16_383, 0],
            &[10; 200],
        ] {
            let mut rest = &text[..];
            let chunks: Vec<_> = lengths
                .iter()
                .map(|length| {
                    let (chunk, left) = rest.split_at(*length);
                    rest = left;
                    IoSlice::new(chunk)
                })
                .collect();
            let length: usize = lengths.iter().sum();
            let written = connected.client.writer().write_vectored(&chunks).expect("no limit");
            assert_eq!(written, length);
            assert!(connected.exchange() == text[..length], "{suite:?}, {lengths:?}");
        }
    }
}

#[test]
fn a_record_has_the_length_that_rustls_counts_with() {
    for (suite, overhead) in ours().zip([17, 17, 24, 24, 24, 24]) {
        let mut connected = connected(suite);
        let before = connected.wire;
        connected.client.writer().write_all(&[7; 1000]).expect("within the limit");
        connected.exchange();
        assert_eq!(connected.wire - before, 5 + 1000 + overhead, "{suite:?}");
    }
}

#[test]
fn a_plaintext_in_one_chunk_is_not_copied() {
    let (head, file) = ([1; 10], [2; 100]);
    let chunks: [&[u8]; 4] = [&head, &[], &file, &[]];
    let part = |start, end| {
        let part = OutboundChunks::Multiple { chunks: &chunks, start, end };
        contiguous(&part).map(<[u8]>::as_ptr_range)
    };
    assert_eq!(part(10, 110), Some(file.as_ptr_range()));
    assert_eq!(part(30, 50), Some(file[20..40].as_ptr_range()));
    assert_eq!(part(0, 10), Some(head.as_ptr_range()));
    assert_eq!(part(9, 11), None);
    assert_eq!(
        contiguous(&OutboundChunks::Single(&file)).map(<[u8]>::as_ptr_range),
        Some(file.as_ptr_range())
    );
}
