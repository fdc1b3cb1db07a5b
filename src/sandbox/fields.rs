//! The fields of a POST Object form (COS documentation 14690): which must be there before the file, which become
//! headers of the object, and whether they are of the same link. Their order is free: public clients send them in
//! different ones, and COS stores all of them. Knows links, but neither the form's syntax nor sockets.

use super::cos_response::Refusal;
use super::form::FormError;
use super::link::{LinkError, Links};

/// The fields that must be there before the file.
const REQUIRED: [&str; 3] = ["key", "Signature", "x-cos-security-token"];
/// The fields that COS sends as headers with each download of the object, besides `Content-Type`.
const DOWNLOAD_HEADERS: [&str; 3] = ["Cache-Control", "Content-Disposition", "Expires"];

#[derive(Default)]
pub struct Fields {
    /// In the order of the form.
    pub all: Vec<(String, String)>,
}

/// The verified fields of a form.
#[derive(Debug, PartialEq)]
pub struct VerifiedFields {
    pub key: String,
    pub content_type: Option<String>,
    pub fileid_ok: bool,
    pub success_status: u16,
}

impl Fields {
    /// Adds the next field. Unknown fields are accepted and recorded.
    pub fn add(&mut self, name: String, value: String) -> Result<(), Refusal> {
        if self.get(&name).is_some() {
            return Err(Refusal::malformed(&format!("the field {name} comes twice")));
        }
        self.all.push((name, value));
        Ok(())
    }

    /// Verifies the fields. It is called when the file begins, because COS refuses a request before it reads the file.
    pub fn verify(
        &self,
        links: &Links,
        url_key: Option<&str>,
        file_name: Option<&str>,
    ) -> Result<VerifiedFields, Refusal> {
        let [Some(key), Some(signature), Some(token)] = REQUIRED.map(|name| self.get(name)) else {
            let missing: Vec<&str> =
                REQUIRED.into_iter().filter(|name| self.get(name).is_none()).collect();
            let reason = format!("the file comes before {}", missing.join(", "));
            return Err(Refusal::malformed(&reason));
        };
        if key.is_empty() {
            return Err(Refusal::new(400, "InvalidArgument", "The key must not be empty."));
        }
        if url_key.is_some_and(|url_key| url_key != key) {
            return Err(Refusal::new(403, "AccessDenied", "The key is not the one of the URL."));
        }
        links.verify_upload(key, signature, token)?;
        let fileid = self.get("x-cos-meta-fileid");
        if fileid.is_some_and(|fileid| fileid != links.cos_file_id(key, token)) {
            return Err(Refusal::new(
                400,
                "InvalidArgument",
                "x-cos-meta-fileid is not the one issued with the link.",
            ));
        }
        for name in DOWNLOAD_HEADERS.into_iter().chain(["Content-Type"]) {
            if self.get(name).is_some_and(|value| value.chars().any(char::is_control)) {
                let message = format!("The {name} is not a valid header value.");
                return Err(Refusal::new(400, "InvalidArgument", &message));
            }
        }
        let key = key.replace("${filename}", file_name.unwrap_or_default());
        if key.len() > 850 {
            return Err(Refusal::new(400, "KeyTooLong", "Your key is too long."));
        }
        Ok(VerifiedFields {
            key,
            content_type: self.get("Content-Type").map(str::to_owned),
            fileid_ok: fileid.is_some(),
            success_status: match self.get("success_action_status") {
                Some("200") => 200,
                Some("201") => 201,
                _ => 204,
            },
        })
    }

    /// Whether a field that must be there before the file is missing.
    pub fn is_incomplete(&self) -> bool {
        REQUIRED.iter().any(|name| self.get(name).is_none())
    }

    /// Names are compared without case: the vendor's client for browsers sends `signature`.
    fn get(&self, name: &str) -> Option<&str> {
        let found = self.all.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

impl From<LinkError> for Refusal {
    fn from(error: LinkError) -> Refusal {
        let code = match error {
            LinkError::WrongSignature => "SignatureDoesNotMatch",
            LinkError::UnknownAccessKey => "InvalidAccessKeyId",
            LinkError::Expired | LinkError::Denied => "AccessDenied",
        };
        Refusal::new(403, code, &error.to_string())
    }
}

impl From<FormError> for Refusal {
    fn from(error: FormError) -> Refusal {
        match error {
            FormError::Malformed(reason) => Refusal::malformed(reason),
            FormError::FieldsTooLarge => Refusal::new(
                400,
                "MaxPostPreDataLengthExceeded",
                "Your POST request fields preceding the upload file were too large.",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn links() -> Links {
        Links::new("http://h".into(), "env", "bucket", Duration::from_secs(900), "secret")
    }

    const NAMES: [&str; 5] =
        ["key", "Signature", "x-cos-security-token", "x-cos-meta-fileid", "Content-Type"];

    /// The right fields for the key `a/b`, in the documented order.
    fn right() -> Vec<(String, String)> {
        let link = links().upload("a/b", Duration::ZERO);
        let values =
            ["a/b".into(), link.authorization, link.token, link.cos_file_id, "image/png".into()];
        NAMES.iter().map(|name| (*name).to_owned()).zip(values).collect()
    }

    fn verify(
        fields: Vec<(String, String)>,
        url_key: Option<&str>,
    ) -> Result<VerifiedFields, &'static str> {
        let mut taken = Fields::default();
        for (name, value) in fields {
            taken.add(name, value).map_err(|refusal| refusal.code)?;
        }
        taken.verify(&links(), url_key, Some("x.png")).map_err(|refusal| refusal.code)
    }

    #[test]
    fn a_valid_form_is_accepted_with_and_without_its_optional_fields() {
        let verified = verify(right(), Some("a/b")).unwrap();
        assert_eq!(
            (verified.key.as_str(), verified.fileid_ok, verified.success_status),
            ("a/b", true, 204)
        );
        assert_eq!(verified.content_type.as_deref(), Some("image/png"));
        let without_type = verify(right()[..4].to_vec(), None).unwrap();
        assert_eq!(without_type.content_type, None);
        assert!(!verify(right()[..3].to_vec(), None).unwrap().fileid_ok);
        let mut more = right();
        more.insert(0, ("success_action_status".into(), "201".into()));
        more.insert(3, ("x-cos-meta-colour".into(), "red".into()));
        assert_eq!(verify(more, None).unwrap().success_status, 201);
    }

    #[test]
    fn every_order_is_accepted_and_recorded() {
        for first in 0..5 {
            for second in first + 1..5 {
                let mut fields = right();
                fields.swap(first, second);
                assert_eq!(verify(fields, Some("a/b")), verify(right(), None), "{first} {second}");
            }
        }
        let mut lower = right();
        lower[1].0 = "signature".into();
        assert_eq!(verify(lower, None), verify(right(), None));
    }

    #[test]
    fn a_field_twice_and_a_file_before_the_fields_are_malformed() {
        let mut twice = right();
        twice.push(("SIGNATURE".into(), twice[1].1.clone()));
        assert_eq!(verify(twice, None), Err("MalformedPOSTRequest"));
        for missing in 0..REQUIRED.len() {
            let mut fields = right();
            fields.remove(missing);
            assert_eq!(verify(fields, None), Err("MalformedPOSTRequest"));
        }
        assert_eq!(verify(vec![], None), Err("MalformedPOSTRequest"));
    }

    #[test]
    fn fields_of_different_links_are_refused() {
        let changed = |at: usize, value: &str| {
            let mut fields = right();
            fields[at].1 = value.to_owned();
            verify(fields, None)
        };
        assert_eq!(verify(right(), Some("a/c")), Err("AccessDenied"));
        assert_eq!(changed(0, "a/c"), Err("SignatureDoesNotMatch"));
        assert_eq!(changed(1, "nonsense"), Err("SignatureDoesNotMatch"));
        assert_eq!(changed(2, "nonsense"), Err("InvalidAccessKeyId"));
        assert_eq!(changed(3, &right()[3].1), Err("InvalidArgument"), "another link's file id");
        assert_eq!(changed(3, &right()[3].1.replace('+', " ")), Err("InvalidArgument"));
    }

    #[test]
    fn cos_expands_the_file_name_in_a_key() {
        let link = links().upload("a/${filename}", Duration::ZERO);
        let values = ["a/${filename}".into(), link.authorization, link.token, link.cos_file_id];
        let fields = NAMES.iter().map(|name| (*name).to_owned()).zip(values).collect();
        assert_eq!(verify(fields, Some("a/${filename}")).unwrap().key, "a/x.png");
    }
}
