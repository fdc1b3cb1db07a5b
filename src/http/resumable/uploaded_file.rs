//! A resumable upload that is stored.

use actix_web::HttpResponseBuilder;
use actix_web::http::header::HeaderName;

use crate::cos::verdict::VerifiedBy;

const FILE_ID: HeaderName = HeaderName::from_static("x-file-id");

/// A file that COS has stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadedFile {
    /// `cloud://…`
    pub file_id: String,
    /// Bytes.
    pub size: u64,
    /// CRC-64/XZ, where it is known.
    pub crc64: Option<u64>,
    pub verified_by: Option<VerifiedBy>,
}

impl UploadedFile {
    /// Adds the file's id to a response.
    pub fn add_id_to(&self, response: &mut HttpResponseBuilder) {
        response.insert_header((FILE_ID, self.file_id.as_str()));
    }
}
