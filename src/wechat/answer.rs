//! A whole reply, read in one pass: WeChat writes its error code among the fields of what was asked for.
//!
//! `serde(flatten)` keeps a copy of every field until it knows whose it is, and takes twice as many instructions.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, Visitor};

use super::lenient;
use super::wire::Envelope;

/// A reply `R` with its [`Envelope`].
pub(super) struct Answer<R> {
    pub envelope: Envelope,
    pub reply: R,
}

impl<'de, R: Deserialize<'de>> Deserialize<'de> for Answer<R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Object(PhantomData))
    }
}

struct Object<R>(PhantomData<R>);

impl<'de, R: Deserialize<'de>> Visitor<'de> for Object<R> {
    type Value = Answer<R>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Answer<R>, A::Error> {
        let mut envelope = Envelope::default();
        let others = Others { fields, envelope: &mut envelope };
        let reply = R::deserialize(MapAccessDeserializer::new(others))?;
        Ok(Answer { envelope, reply })
    }
}

/// An object's fields but for the envelope's, which go where they belong.
struct Others<'a, A> {
    fields: A,
    envelope: &'a mut Envelope,
}

#[derive(Deserialize)]
struct Number(#[serde(deserialize_with = "lenient::number")] i64);

#[derive(Deserialize)]
struct Text(#[serde(deserialize_with = "lenient::text")] String);

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Others<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        while let Some(Name(name)) = self.fields.next_key()? {
            match &*name {
                "errcode" => self.envelope.errcode = self.fields.next_value::<Number>()?.0,
                "errmsg" => self.envelope.errmsg = self.fields.next_value::<Text>()?.0,
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
    fn the_envelope_may_stand_anywhere_or_be_missing() {
        let list = json!([{ "fileid": "cloud://a", "errcode": 7 }]);
        let read = |reply: serde_json::Value| {
            from_str::<Answer<BatchDownloadReply>>(&reply.to_string()).map(|answer| {
                (answer.envelope.errcode, answer.envelope.errmsg, answer.reply.file_list.len())
            })
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
            from_str::<Answer<BatchDownloadReply>>(
                r#"{"file_list":[],"errmsg":"\u00e4","\u0065rrcode":-2}"#
            )
            .map(|answer| (answer.envelope.errcode, answer.envelope.errmsg))
            .unwrap(),
            (-2, "ä".into())
        );
        for (errcode, read_as) in
            [(json!("1"), 1), (json!("0"), 0), (json!(" -501007 "), -501007), (json!(2.0), 2)]
        {
            let answer = read(json!({ "errcode": errcode, "errmsg": null })).unwrap();
            assert_eq!(answer, (read_as, String::new(), 0));
        }
        assert_eq!(read(json!({ "errcode": null, "file_list": null })).unwrap().0, 0);
        for wrong in [json!("one"), json!([]), json!(1.5), json!(true)] {
            assert!(read(json!({ "errcode": wrong })).is_err(), "{wrong}");
        }
        assert!(read(json!([1, "ok", []])).is_err());
    }
}
