//! The `data` of Secrets and ConfigMaps: parsed from the stored JSON, keys and sizes checked as the API server does.
//!
//! Values go from base64 straight into [`Clear`]; no clear copy of them is left in a JSON tree.

use std::collections::BTreeMap;
use std::fmt;

use data_encoding::BASE64;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, Visitor};

use super::object::{Kind, Object, Shown};
use crate::clear::Clear;

/// Decoded data of one object may be this large at most (`MaxSecretSize` and the ConfigMap limit: 1 MiB).
pub const DATA_MAX_BYTES: usize = 1024 * 1024;

/// Key -> value of one Secret or ConfigMap; a ConfigMap's `data` and `binaryData` together.
pub type Data = BTreeMap<String, Clear>;

/// Why an object's data is refused. Never carries a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// The JSON is not a Secret or ConfigMap: a wrong type, or invalid base64. The text names the place only.
    #[error("{0}")]
    Malformed(String),
    /// A key that the API server would refuse: 1 to 253 of `[-._a-zA-Z0-9]`, not `.`, not starting with `..`.
    #[error("data key {0} is not allowed: 1 to 253 of [-._a-zA-Z0-9], neither '.' nor starting with '..'")]
    Key(Shown),
    /// One key stands in both `data` and `binaryData`.
    #[error("data key {0} stands in both data and binaryData")]
    Twice(Shown),
    /// More than [`DATA_MAX_BYTES`] of decoded data.
    #[error("the decoded data has {0} bytes; the API server allows 1048576")]
    TooLarge(usize),
}

/// The data of a Secret or ConfigMap.
///
/// # Errors
/// [`DataError`] says what is wrong without the value. Other kinds have no data: an empty map.
pub fn data(object: &Object) -> Result<Data, DataError> {
    let (first, second) = match object.key.kind() {
        Kind::Secret => (parse::<SecretBody>(object)?.data.unwrap_or_default(), BTreeMap::new()),
        Kind::ConfigMap => {
            let body = parse::<ConfigMapBody>(object)?;
            (body.binary_data.unwrap_or_default(), body.data.unwrap_or_default())
        }
        Kind::Pod | Kind::Service | Kind::Node => return Ok(Data::new()),
    };
    let mut all: Data = first.into_iter().map(|(key, Base64(value))| (key, value)).collect();
    for (key, Text(value)) in second {
        if all.contains_key(&key) {
            return Err(DataError::Twice(Shown::new(&key)));
        }
        all.insert(key, value);
    }
    if let Some(bad) = all.keys().find(|key| !is_data_key(key)) {
        return Err(DataError::Key(Shown::new(bad)));
    }
    let bytes = all.values().map(Clear::len).sum();
    if bytes > DATA_MAX_BYTES {
        return Err(DataError::TooLarge(bytes));
    }
    Ok(all)
}

/// What environment variables can come from: a Secret's data, or a ConfigMap's `data` without its `binaryData`.
///
/// # Errors
/// As [`data`].
pub fn env_data(object: &Object) -> Result<Data, DataError> {
    let mut all = data(object)?;
    if object.key.kind() == Kind::ConfigMap {
        let binary = parse::<ConfigMapBody>(object)?.binary_data.unwrap_or_default();
        all.retain(|key, _| !binary.contains_key(key));
    }
    Ok(all)
}

/// Whether the API server takes `key` as a data key (`IsConfigMapKey`): such a key is always one plain file name.
#[must_use]
pub fn is_data_key(key: &str) -> bool {
    (1..=253).contains(&key.len())
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
        && key != "."
        && !key.starts_with("..")
}

#[derive(Deserialize)]
struct SecretBody {
    data: Option<BTreeMap<String, Base64>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigMapBody {
    data: Option<BTreeMap<String, Text>>,
    binary_data: Option<BTreeMap<String, Base64>>,
}

fn parse<'a, T: Deserialize<'a>>(object: &'a Object) -> Result<T, DataError> {
    // serde_json's own text quotes the offending value for some errors; only its position is passed on.
    serde_json::from_slice(object.body.expose()).map_err(|error| {
        let what =
            if error.to_string().starts_with(NOT_BASE64) { NOT_BASE64 } else { "its data is not a map of strings" };
        DataError::Malformed(format!("{what} (at byte {} of the object's JSON)", error.column()))
    })
}

const NOT_BASE64: &str = "a value is not valid base64";

struct Base64(Clear);
struct Text(Clear);

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Decode;
        impl Visitor<'_> for Decode {
            type Value = Base64;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a base64 string")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Base64, E> {
                BASE64.decode(text.as_bytes()).map(|bytes| Base64(bytes.into())).map_err(|_| E::custom(NOT_BASE64))
            }
            // The API server writes an absent value as null.
            fn visit_unit<E: serde::de::Error>(self) -> Result<Base64, E> {
                Ok(Base64(Clear::default()))
            }
        }
        deserializer.deserialize_any(Decode).map_err(|error| {
            // Wrong types are reported without the value that was found.
            if error.to_string().starts_with(NOT_BASE64) { error } else { D::Error::custom("wrong type") }
        })
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::object::ObjectKey;
    use super::*;

    fn object(kind: Kind, json: &str) -> Object {
        let key = ObjectKey::new(kind, "default", "o").unwrap();
        Object { key, uid: String::new(), resource_version: String::new(), body: json.to_owned().into() }
    }

    fn texts(data: &Data) -> Vec<(&str, &[u8])> {
        data.iter().map(|(key, value)| (key.as_str(), value.expose())).collect()
    }

    #[test]
    fn values_are_decoded() {
        let secret = object(Kind::Secret, r#"{"data":{"b":"AAE=","a":"aGk=","n":null}}"#);
        assert_eq!(texts(&data(&secret).unwrap()), [("a", &b"hi"[..]), ("b", &[0, 1]), ("n", b"")]);
        let config = object(Kind::ConfigMap, r#"{"data":{"t":"x"},"binaryData":{"b":"/w=="}}"#);
        assert_eq!(texts(&data(&config).unwrap()), [("b", &[0xff][..]), ("t", b"x")]);
        assert!(data(&object(Kind::Secret, "{}")).unwrap().is_empty());
    }

    #[test]
    fn binary_data_is_no_environment() {
        let config = object(Kind::ConfigMap, r#"{"data":{"t":"x"},"binaryData":{"b":"/w=="}}"#);
        assert_eq!(texts(&env_data(&config).unwrap()), [("t", &b"x"[..])]);
    }

    #[test]
    fn bad_data_is_refused_without_its_value() {
        let large = format!(r#"{{"data":{{"k":"{}"}}}}"#, "x".repeat(DATA_MAX_BYTES + 1));
        #[rustfmt::skip]
        let rows = [
            (Kind::Secret, r#"{"data":{"k":"canary!"}}"#, "not valid base64"),
            (Kind::Secret, r#"{"data":{"k":12345678}}"#, "not a map of strings"),
            (Kind::Secret, r#"{"data":"canary"}"#, "not a map of strings"),
            (Kind::Secret, r#"{"data":{"../k":"aGk="}}"#, "not allowed"),
            (Kind::Secret, r#"{"data":{"..k":"aGk="}}"#, "not allowed"),
            (Kind::Secret, r#"{"data":{".":"aGk="}}"#, "not allowed"),
            (Kind::ConfigMap, r#"{"data":{"k":"x"},"binaryData":{"k":"/w=="}}"#, "both"),
            (Kind::ConfigMap, large.as_str(), "1048577 bytes"),
        ];
        for (kind, json, want) in rows {
            let message = data(&object(kind, json)).err().expect(want).to_string();
            assert!(message.contains(want), "{message}");
            assert!(!message.contains("canary") && !message.contains("12345678"), "{message}");
        }
    }
}
