//! The JSON object of a whole response, parsed in one pass: WeChat writes its error code among the fields of the
//! result.
//!
//! `serde(flatten)` would do the same with twice as many instructions: it copies every field before it assigns it to a
//! struct.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, Visitor};

use super::lenient;
use super::wire::ErrorFields;

/// A result `R` and the [`ErrorFields`] among its fields.
pub(super) struct ResponseBody<R> {
    pub error: ErrorFields,
    pub result: R,
}

impl<'de, R: Deserialize<'de>> Deserialize<'de> for ResponseBody<R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(BodyVisitor(PhantomData))
    }
}

struct BodyVisitor<R>(PhantomData<R>);

impl<'de, R: Deserialize<'de>> Visitor<'de> for BodyVisitor<R> {
    type Value = ResponseBody<R>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<ResponseBody<R>, A::Error> {
        let mut error = ErrorFields::default();
        let result_fields = ResultFields { fields, error: &mut error };
        let result = R::deserialize(MapAccessDeserializer::new(result_fields))?;
        Ok(ResponseBody { error, result })
    }
}

/// The fields of the result: all of the object's except the error fields, which are stored in `error`.
struct ResultFields<'a, A> {
    fields: A,
    error: &'a mut ErrorFields,
}

#[derive(Deserialize)]
struct Number(#[serde(deserialize_with = "lenient::number")] i64);

#[derive(Deserialize)]
struct Text(#[serde(deserialize_with = "lenient::text")] String);

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de, A: MapAccess<'de>> MapAccess<'de> for ResultFields<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        while let Some(Name(name)) = self.fields.next_key()? {
            match &*name {
                "errcode" => self.error.errcode = self.fields.next_value::<Number>()?.0,
                "errmsg" => self.error.errmsg = self.fields.next_value::<Text>()?.0,
                _ => return seed.deserialize(name.into_deserializer()).map(Some),
            }
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.fields.next_value_seed(seed)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_str, json};

    use super::*;
    use crate::wechat::wire::BatchDownloadReply;

    #[test]
    fn the_error_fields_may_be_anywhere_or_missing() {
        let list = json!([{ "fileid": "cloud://a", "errcode": 7 }]);
        let read = |json: serde_json::Value| {
            from_str::<ResponseBody<BatchDownloadReply>>(&json.to_string())
                .map(|body| (body.error.errcode, body.error.errmsg, body.result.file_list.len()))
        };
        assert_eq!(
            read(json!({ "errcode": 1, "errmsg": "ok", "file_list": list })).unwrap(),
            (1, "ok".into(), 1)
        );
        assert_eq!(
            read(json!({ "a": { "errcode": 1 }, "file_list": list, "z": [] })).unwrap(),
            (0, String::new(), 1)
        );
        // `serde_json::Value` sorts its keys.
        assert_eq!(
            from_str::<ResponseBody<BatchDownloadReply>>(
                r#"{"file_list":[],"errmsg":"\u00e4","\u0065rrcode":-2}"#
            )
            .map(|body| (body.error.errcode, body.error.errmsg))
            .unwrap(),
            (-2, "ä".into())
        );
        for (errcode, read_as) in
            [(json!("1"), 1), (json!("0"), 0), (json!(" -501007 "), -501007), (json!(2.0), 2)]
        {
            let body = read(json!({ "errcode": errcode, "errmsg": null })).unwrap();
            assert_eq!(body, (read_as, String::new(), 0));
        }
        assert_eq!(read(json!({ "errcode": null, "file_list": null })).unwrap().0, 0);
        for wrong in [json!("one"), json!([]), json!(1.5), json!(true)] {
            assert!(read(json!({ "errcode": wrong })).is_err(), "{wrong}");
        }
        assert!(read(json!([1, "ok", []])).is_err());
    }
}
