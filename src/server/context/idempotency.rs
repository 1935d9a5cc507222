//! The idempotency key of a request, bound to its route and body.

use std::borrow::Cow;

use serde_json::{Value, value::RawValue};

use super::RequestContext;
use crate::{
    app::{blocking::run_blocking, messages::RequestKey},
    server::{reply::Problem, size_limits::MAX_JSON_LEN},
};

impl RequestContext {
    /// # Errors
    /// It is empty, too long or has invisible characters.
    pub fn request_key(&self) -> Result<Option<RequestKey>, Problem> {
        self.request_key_over(|digest| digest.update(&canonical(self.document())))
    }

    /// The same for a body with one list: hashed item by item, because the tree of a large body takes far more
    /// memory.
    ///
    /// # Errors
    /// As [`RequestContext::request_key`].
    pub fn request_key_of(
        &self,
        name: &str,
        items: &[&RawValue],
    ) -> Result<Option<RequestKey>, Problem> {
        self.request_key_over(|digest| {
            digest.update(format!("{{\"{name}\":[").as_bytes());
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    digest.update(b",");
                }
                let text = item.get().as_bytes();
                digest.update(&if text.len() > MAX_JSON_LEN {
                    text.into()
                } else {
                    canonical(text)
                });
            }
            digest.update(b"]}");
        })
    }

    fn request_key_over(
        &self,
        body: impl Fn(&mut ring::digest::Context),
    ) -> Result<Option<RequestKey>, Problem> {
        let mut values = self.headers.get_all("idempotency-key").iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            let text = "a request may have only one Idempotency-Key";
            return Err(Problem::field("Idempotency-Key", "invalid_key", text));
        }
        let key = value
            .to_str()
            .ok()
            .map(str::trim)
            .filter(|key| (1..=255).contains(&key.len()))
            .ok_or_else(|| {
            Problem::field(
                "Idempotency-Key",
                "invalid_key",
                "Idempotency-Key must have 1 to 255 visible ASCII characters",
            )
        })?;
        let hash = |body: &dyn Fn(&mut ring::digest::Context)| {
            let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
            digest.update(self.route.as_bytes());
            digest.update(b"\n");
            body(&mut digest);
            let mut hash = [0; 32];
            hash.copy_from_slice(digest.finish().as_ref());
            hash
        };
        let key = key.to_owned();
        let (request_hash, written_hash) = run_blocking(self.body.len(), || {
            (hash(&body), hash(&|digest| digest.update(&self.body)))
        });
        Ok(Some(RequestKey { key, request_hash, written_hash }))
    }
}

/// The canonical form of a JSON body: fields sorted, without nulls, because a null means the same as leaving
/// the field out.
fn canonical(body: &[u8]) -> Cow<'_, [u8]> {
    fn without_nulls(value: Value) -> Value {
        match value {
            // The map is sorted by name.
            Value::Object(fields) => Value::Object(
                fields
                    .into_iter()
                    .filter(|(_, value)| !value.is_null())
                    .map(|(name, value)| (name, without_nulls(value)))
                    .collect(),
            ),
            Value::Array(items) => items.into_iter().map(without_nulls).collect(),
            other => other,
        }
    }
    match serde_json::from_slice(body) {
        Ok(value) => Cow::Owned(without_nulls(value).to_string().into_bytes()),
        Err(_) => Cow::Borrowed(body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_that_mean_the_same_are_the_same() {
        let one =
            canonical(br#"{"to":"+967","content":"x","subject":null,"list":[{"b":1,"a":null}]}"#);
        let other =
            canonical(b"{ \"list\" : [{\"b\":1}],\n\"content\":\"\\u0078\", \"to\":\"+967\" }");
        assert_eq!(one, other);
        for different in [
            &br#"{"to":"+967","content":"y","list":[{"b":1}]}"#[..],
            br#"{"to":"+967","content":"x","list":[{"b":"1"}]}"#,
            br#"{"to":"+967","content":"x","list":[{"b":1},{}]}"#,
            br#"{"to":"+967","content":"null","list":[{"b":1}]}"#,
            b"no JSON",
        ] {
            assert_ne!(one, canonical(different), "{}", String::from_utf8_lossy(different));
        }
        assert_eq!(*canonical(b"no JSON"), *b"no JSON");
    }
}
