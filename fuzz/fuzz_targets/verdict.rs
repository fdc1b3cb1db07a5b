//! COS's response, with any body: a refusal is never judged as a success.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tcb_upload_gateway::cos::error::CosError;
use tcb_upload_gateway::cos::verdict::{CosHeaders, CosResponse, judge};

fuzz_target!(|input: &[u8]| {
    let body = Bytes::copy_from_slice(input);
    for status in [204, 200, 403] {
        let headers = CosHeaders { request_id: None, crc64: Some("7".to_owned()) };
        let response = CosResponse { status, headers, body: body.clone(), is_form_sent: true };
        match judge(&response, 1, 7, true) {
            Ok(receipt) => {
                assert!(status < 300 && receipt.verified);
                assert!(!input.starts_with(b"<Error>"));
            }
            Err(CosError::Refused { code, message, .. }) => {
                assert!(code.chars().count() <= 64 && message.chars().count() <= 512);
                assert!(!code.contains(char::is_control) && !message.contains(char::is_control));
            }
            Err(other) => panic!("{other}"),
        }
    }
});
