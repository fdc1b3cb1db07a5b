//! A part's headers, on any bytes: they are parsed or refused, and a file name has no slash, line break or NUL.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tcb_upload_gateway::inbound::head;

fuzz_target!(|input: &[u8]| {
    let mut raw = b"Content-Disposition: form-data; name=\"file\"; ".to_vec();
    raw.extend_from_slice(input);
    raw.extend_from_slice(b"\r\n\r\n");
    for raw in [raw.as_slice(), input] {
        if let Ok(head) = head::parse(raw)
            && let Some(name) = head.file_name
        {
            assert!(!name.contains(['/', '\\', '\r', '\n', '\0']));
        }
    }
});
