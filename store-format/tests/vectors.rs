//! Every golden vector decodes, or is refused, as it says; and every rule of `SPEC.md` has a vector that breaks it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use data_encoding::HEXLOWER as HEX;
use store_format::{
    Absence, AbsentObject, Codec, DecodeError, Envelope, Event, FORMAT_VERSION, Form, Frame, Identity, KeyError,
    KeySlot, LogItem, LogRecord, NodeSecret, PodRow, Purpose, RecordContext, SealedBody, SlotKind, State, StoreId,
    Table,
};

/// What a decoder made of the octets: fields in order, and the octets that they encode to again.
type Outcome = Result<(Vec<(&'static str, String)>, Option<Vec<u8>>), &'static str>;

struct Vector {
    name: String,
    decoder: String,
    version: u32,
    expect: String,
    fields: Vec<(String, String)>,
    octets: Vec<u8>,
}

impl Vector {
    fn parse(name: &str, text: &str) -> Self {
        let (header, body) = text.split_once("\n\n").unwrap_or_else(|| panic!("{name}: no blank line"));
        let mut lines = header.lines().map(|line| {
            let (key, value) = line.split_once(':').unwrap_or_else(|| panic!("{name}: no colon in {line:?}"));
            (key.to_owned(), value.strip_prefix(' ').unwrap_or(value).to_owned())
        });
        let mut next = |wanted: &str| {
            let (key, value) = lines.next().unwrap_or_else(|| panic!("{name}: {wanted} is missing"));
            assert_eq!(key, wanted, "{name}");
            value
        };
        assert!(!next("comment").is_empty(), "{name}: empty comment");
        let decoder = next("decoder");
        let version = next("version").parse().expect("a number");
        assert!((1..=FORMAT_VERSION).contains(&version), "{name}");
        let expect = next("expect");
        let octets = body.lines().flat_map(|line| {
            let (hex, count) = line.split_once(" * ").unwrap_or((line, "1"));
            HEX.decode(hex.as_bytes()).expect("lower-case hexadecimal").repeat(count.parse().expect("a number"))
        });
        Self { name: name.to_owned(), decoder, version, expect, octets: octets.collect(), fields: lines.collect() }
    }

    fn all() -> Vec<Self> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors");
        let in_directory = |path: &Path| std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        let vectors: Vec<_> = in_directory(&directory)
            .chain(in_directory(&directory.join("crypto")))
            .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
            .map(|path| {
                let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
                Self::parse(&name, &std::fs::read_to_string(&path).unwrap())
            })
            .collect();
        assert!(!vectors.is_empty());
        vectors
    }

    /// Those that hold for this version of the format: of two with the same octets for the same decoder, the later one.
    fn current() -> Vec<Self> {
        let mut latest: BTreeMap<(String, Vec<u8>), Self> = BTreeMap::new();
        let mut current = Vec::new();
        // Those of the directory `crypto` take primitives that this crate has not: `src/store/vault/vectors.rs` and
        // `tests/independent/check.py` hold them.
        let crypto = ["wrap", "seal", "tag", "recovery-code"];
        for vector in Self::all().into_iter().filter(|vector| !crypto.contains(&vector.decoder.as_str())) {
            if vector.compute().is_some() {
                current.push(vector);
                continue;
            }
            let place = (vector.decoder.clone(), vector.octets.clone());
            let Some(other) = latest.remove(&place) else {
                latest.insert(place, vector);
                continue;
            };
            let names = format!("{} and {}", other.name, vector.name);
            let (older, newer) = if other.version < vector.version { (other, vector) } else { (vector, other) };
            assert!(older.version < newer.version || older.expect == newer.expect, "{names} contradict each other");
            // What a version accepts every later one accepts, and so with what it knows to be wrong.
            let unknown =
                ["format.newer", ".version", ".code", ".kind"].iter().any(|rule| older.expect.ends_with(rule));
            assert!(older.expect == newer.expect || unknown, "{names}: a later version must not judge otherwise");
            latest.insert(place, newer);
        }
        current.extend(latest.into_values());
        current
    }

    /// The values of a field, in order.
    fn values(&self, field: &str) -> Vec<&str> {
        self.fields.iter().filter(|(name, _)| name == field).map(|(_, value)| value.as_str()).collect()
    }

    fn value(&self, field: &str) -> &str {
        match self.values(field).as_slice() {
            [value] => value,
            other => panic!("{}: {} values of {field}", self.name, other.len()),
        }
    }

    fn octets_of<const N: usize>(&self, field: &str) -> [u8; N] {
        HEX.decode(self.value(field).as_bytes()).unwrap().try_into().unwrap()
    }

    fn run(&self) -> Outcome {
        match self.decoder.as_str() {
            "frame" => frame(&self.octets).map_err(|error| error.code()),
            "format" => format(&self.octets).map_err(|error| error.code()),
            "envelope" => envelope(&self.octets).map_err(|error| error.code()),
            "sealed" => sealed(&self.octets).map_err(|error| error.code()),
            "slot" => slot(&self.octets).map_err(|error| error.code()),
            "identity" => identity(&self.octets).map_err(|error| error.code()),
            "state" => state(&self.octets).map_err(|error| error.code()),
            "pod-row" => pod_row(&self.octets).map_err(|error| error.code()),
            "log" => log(&self.octets).map_err(|error| error.code()),
            "sec1" => key(NodeSecret::from_sec1(&self.octets)),
            "pkcs8" => key(NodeSecret::from_pkcs8(&self.octets)),
            "pkcs1" => key(NodeSecret::from_pkcs1(&self.octets)),
            other => panic!("{}: unknown decoder {other}", self.name),
        }
    }

    /// What the fields give as arguments; `None` if the vector is one for a decoder.
    fn compute(&self) -> Option<Vec<u8>> {
        let store_id = || StoreId(self.octets_of("store-id"));
        Some(match self.decoder.as_str() {
            "associated-data" => RecordContext {
                store_id: &store_id(),
                kind: self.value("kind"),
                namespace: self.value("namespace"),
                name: self.value("name"),
                uid: self.value("uid"),
                resource_version: self.value("resource-version"),
            }
            .associated_data(),
            "store-context" => store_format::store_context(&store_id()),
            "slot-context" => {
                let kind = SlotKind::ALL.into_iter().find(|kind| kind.name() == self.value("kind")).unwrap();
                store_format::slot_context(&store_id(), kind, &self.octets_of("fingerprint"))
            }
            "key-info" => {
                let purposes = [Purpose::Record, Purpose::Tag, Purpose::Slot, Purpose::Fingerprint];
                let purpose = purposes.into_iter().find(|purpose| purpose.label() == self.value("purpose")).unwrap();
                store_format::key_info(purpose, &HEX.decode(self.value("context").as_bytes()).unwrap())
            }
            "digest-input" => {
                let table = Table::ALL.into_iter().find(|table| table.name() == self.value("table")).unwrap();
                let payload = HEX.decode(self.value("payload").as_bytes()).unwrap();
                store_format::digest_input(table, &self.values("key-part"), &payload)
            }
            "tag-input" => store_format::tag_input(&store_id(), &self.octets_of("digest")),
            _ => return None,
        })
    }
}

type Decoded = Result<(Vec<(&'static str, String)>, Option<Vec<u8>>), DecodeError>;

fn frame(octets: &[u8]) -> Decoded {
    let frame = Frame::decode(octets)?;
    let fields = vec![
        ("digest", HEX.encode(&frame.digest)),
        ("tag", frame.tag.map_or("none".to_owned(), |tag| HEX.encode(&tag))),
        ("payload", HEX.encode(frame.payload)),
    ];
    Ok((fields, Some(frame.encode())))
}

fn format(octets: &[u8]) -> Decoded {
    let version = store_format::decode_format(octets)?;
    store_format::check_format(version)?;
    // This program writes the newest only.
    let encoded = (version == FORMAT_VERSION).then(|| store_format::encode_format().to_vec());
    Ok((vec![("format-version", version.to_string())], encoded))
}

fn envelope(octets: &[u8]) -> Decoded {
    let value = Envelope::decode(octets)?;
    let encoded = value.encode().unwrap();
    let codec = match value.codec {
        Codec::None => "none",
    };
    let form = match value.form {
        Form::Clear => "clear",
        Form::Sealed => "sealed",
    };
    let mut fields = vec![
        ("kind", value.kind),
        ("namespace", value.namespace),
        ("name", value.name),
        ("uid", value.uid),
        ("resource-version", value.resource_version),
        ("stored-at-unix-ms", value.stored_at_unix_ms.to_string()),
        ("codec", codec.to_owned()),
        ("form", form.to_owned()),
    ];
    let link = |link: store_format::Link| ("link", format!("{}/{}/{}", link.kind, link.namespace, link.name));
    fields.extend(value.links.into_iter().map(link));
    fields.push(("body", HEX.encode(&value.body)));
    Ok((fields, Some(encoded)))
}

fn sealed(octets: &[u8]) -> Decoded {
    let body = SealedBody::decode(octets)?;
    let fields = vec![("salt", HEX.encode(&body.salt)), ("ciphertext", HEX.encode(body.ciphertext))];
    Ok((fields, Some(body.encode())))
}

fn slot(octets: &[u8]) -> Decoded {
    let slot = KeySlot::decode(octets)?;
    let fields = vec![
        ("kind", slot.kind.name().to_owned()),
        ("fingerprint", HEX.encode(&slot.fingerprint)),
        ("created-at-unix-ms", slot.created_at_unix_ms.to_string()),
        ("salt", HEX.encode(&slot.salt)),
        ("wrapped", HEX.encode(&slot.wrapped)),
    ];
    Ok((fields, Some(slot.encode())))
}

fn identity(octets: &[u8]) -> Decoded {
    let value = Identity::decode(octets)?;
    let encoded = value.encode().unwrap();
    let mut fields = vec![
        ("store-id", value.store_id.to_string()),
        ("created-at-unix-ms", value.created_at_unix_ms.to_string()),
        ("node-name", value.node_name),
        ("node-uid", value.node_uid),
    ];
    fields.extend(value.cluster_ca_sha256.iter().map(|ca| ("cluster-ca-sha256", HEX.encode(ca))));
    fields.push(("kubelet-version", value.kubelet_version));
    Ok((fields, Some(encoded)))
}

fn state(octets: &[u8]) -> Decoded {
    let value = State::decode(octets)?;
    let encoded = value.encode().unwrap();
    let mut fields = vec![
        ("revision", value.revision.to_string()),
        ("populated", value.populated.to_string()),
        ("changed-at-unix-ms", value.changed_at_unix_ms.to_string()),
    ];
    fields.extend(value.census.iter().map(|(kind, count)| ("census", format!("{kind} {count}"))));
    fields.extend([("boot-id", value.boot_id), ("source-position", value.source_position)]);
    Ok((fields, Some(encoded)))
}

fn pod_row(octets: &[u8]) -> Decoded {
    let value = PodRow::decode(octets)?;
    let encoded = value.encode().unwrap();
    assert_eq!(PodRow::decode(&encoded), Ok(value.clone()), "a row of any layout can be written");
    let phase = value.lifecycle.phase().name().to_owned();
    let mut fields = vec![("uid", value.uid), ("ran", value.ran.to_string())];
    let encoded = if octets[0] == 1 {
        assert_eq!((value.lifecycle.left_s(), value.gone, value.held, value.republished), (None, false, false, 0));
        fields.push(("activity", phase));
        // This program writes layout 2 only.
        None
    } else {
        fields.extend([
            ("phase", phase),
            ("seconds-left", value.lifecycle.left_s().unwrap_or(0).to_string()),
            ("gone", value.gone.to_string()),
            ("held", value.held.to_string()),
            ("republished", value.republished.to_string()),
        ]);
        Some(encoded)
    };
    fields.extend([("decided-at-unix-ms", value.decided_at_unix_ms.to_string()), ("ended", value.ended)]);
    let why = |absence| match absence {
        Absence::NotFound => "not-found",
        Absence::Forbidden => "forbidden",
    };
    let absent = |object: AbsentObject| ("absent", format!("{}/{} {}", object.kind, object.name, why(object.why)));
    fields.extend(value.absent.into_iter().map(absent));
    Ok((fields, encoded))
}

fn log(octets: &[u8]) -> Decoded {
    let value = LogRecord::decode(octets)?;
    let encoded = value.encode().unwrap();
    let mut fields = vec![("at-unix-ms", value.at_unix_ms.to_string()), ("boot-id", value.boot_id)];
    fields.extend(value.items.iter().map(|item| {
        let LogItem { event, kind, namespace, name, uid, why } = item;
        let event = match event {
            Event::Decided { from, to } => format!("decided {} {}", from.name(), to.name()),
            plain => plain.name().to_owned(),
        };
        let why = if why.is_empty() { String::new() } else { format!(" | {why}") };
        ("item", format!("{event} | {kind}/{namespace}/{name}/{uid}{why}"))
    }));
    fields.push(("more", value.more.to_string()));
    Ok((fields, Some(encoded)))
}

fn key(read: Result<NodeSecret, KeyError>) -> Outcome {
    let secret = read.map_err(|error| error.code())?;
    let fields = vec![
        ("algorithm", secret.algorithm().name().to_owned()),
        ("canonical", HEX.encode(secret.canonical())),
        ("spki", secret.public_spki().map_or("none".to_owned(), |spki| HEX.encode(spki))),
    ];
    // Many encodings give one canonical secret; that is the point.
    Ok((fields, None))
}

#[test]
fn every_vector_holds() {
    let mut failures = Vec::new();
    for vector in Vector::current() {
        let name = &vector.name;
        if let Some(computed) = vector.compute() {
            assert_eq!(vector.expect, "accept", "{name}");
            if computed != vector.octets {
                failures.push(format!("{name}: other octets: {}", HEX.encode(&computed)));
            }
            continue;
        }
        match (vector.run(), vector.expect.strip_prefix("reject ")) {
            (Err(code), Some(wanted)) if code == wanted => assert!(vector.fields.is_empty(), "{name}"),
            (Ok((fields, encoded)), None) if vector.expect == "accept" => {
                let stated: Vec<_> =
                    vector.fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
                let decoded: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
                if decoded != stated {
                    failures.push(format!("{name}: other fields: {decoded:?}"));
                }
                if let Some(encoded) = encoded.filter(|encoded| *encoded != vector.octets) {
                    failures.push(format!("{name}: other octets: {}", HEX.encode(&encoded)));
                }
            }
            (Err(code), _) => failures.push(format!("{name}: {code} instead of {}", vector.expect)),
            (Ok(_), _) => failures.push(format!("{name}: accepted instead of {}", vector.expect)),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The table of error codes in `SPEC.md` is the list; it can't fall behind the vectors, nor they behind it.
#[test]
fn every_code_of_the_spec_has_a_vector() {
    let spec = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("SPEC.md")).unwrap();
    let (_, section) = spec.split_once("## 13. Error codes").unwrap();
    let (section, _) = section.split_once("## 14.").unwrap();
    let first_columns = section.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    let codes: BTreeSet<String> =
        first_columns.flat_map(|column| column.split(", ")).map(|code| code.trim_matches('`').to_owned()).collect();
    let in_vectors: BTreeSet<String> =
        Vector::all().iter().filter_map(|vector| vector.expect.strip_prefix("reject ").map(str::to_owned)).collect();
    assert_eq!(codes, in_vectors);
}

#[test]
fn most_vectors_are_rejections() {
    let vectors = Vector::all();
    let rejections = vectors.iter().filter(|vector| vector.expect.starts_with("reject")).count();
    assert!(2 * rejections > vectors.len(), "{rejections} of {}", vectors.len());
}

/// One key, many files, one secret: said by the vectors' values, asked here of their names.
#[test]
fn encodings_of_one_key_agree() {
    let mut secrets: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let families =
        ["key-p256-sec1", "key-p256-pkcs8", "key-leading-zero", "key-rsa-pkcs", "key-ed25519-pkcs8", "key-p384"];
    let vectors = Vector::all();
    for family in families {
        let members = vectors.iter().filter(|vector| vector.name.starts_with(family) && vector.expect == "accept");
        let all: Vec<_> = members.map(|vector| vector.value("canonical").to_owned()).collect();
        assert!(all.len() >= 2, "{family} has {} encodings", all.len());
        secrets.insert(family, all.into_iter().collect());
    }
    assert!(secrets.values().all(|distinct| distinct.len() == 1), "{:?}", secrets.keys());
    assert_eq!(secrets["key-p256-sec1"], secrets["key-p256-pkcs8"]);
    let zero = secrets["key-leading-zero"].first().unwrap();
    assert!(zero.starts_with("06082a8648ce3d03010700"), "the scalar is padded on the left");
    assert_eq!(zero.len(), 2 * 42);
}
