//! Every file of `fuzz/corpus/` through the body of its fuzz target: what fuzzing found stays found.
//!
//! The seeds are made from the format's vectors, the example node, the keys of other tests and a few hand-written pieces;
//! `CKPT_DB_SEEDS=DIRECTORY cargo test --test corpus seeds` writes them for the fuzzer to start from.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[allow(unreachable_pub, reason = "the fuzz targets have these as a library")]
#[path = "../fuzz/bodies/mod.rs"]
mod bodies;

/// Far above what any of them takes, and far below a hang.
const SLOWEST: Duration = Duration::from_secs(20);

/// How many mutations an ordinary run makes for each target.
const MUTATIONS: u64 = 60;

#[test]
fn every_file_of_the_corpus_passes() {
    let mut files = 0;
    for (target, body) in bodies::TARGETS {
        let (mut count, mut slowest) = (0, Duration::ZERO);
        let started = Instant::now();
        for path in corpus_of(target) {
            let octets = fs::read(&path).unwrap();
            let begun = Instant::now();
            let outcome = std::panic::catch_unwind(|| body(&octets));
            assert!(outcome.is_ok(), "{} is a finding again", path.display());
            slowest = slowest.max(begun.elapsed());
            assert!(begun.elapsed() < SLOWEST, "{} took {:?}", path.display(), begun.elapsed());
            count += 1;
        }
        println!("{target}: {count} files in {:?}, the slowest in {slowest:?}", started.elapsed());
        assert!(count >= 10, "{target} has hardly a corpus");
        files += count;
    }
    assert!(files <= 600, "{files} files: minimise the corpus (fuzz/README.md)");
}

#[test]
fn every_directory_of_the_corpus_belongs_to_a_target() {
    for entry in fs::read_dir("fuzz/corpus").unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(bodies::TARGETS.iter().any(|(target, _)| *target == name), "{name}");
        assert!(Path::new("fuzz/fuzz_targets").join(format!("{name}.rs")).is_file(), "{name}");
    }
}

#[test]
fn every_seed_passes() {
    let into = std::env::var_os("CKPT_DB_SEEDS").map(PathBuf::from);
    for (target, body) in bodies::TARGETS {
        let seeds = seeds::of(target);
        assert!(seeds.len() >= 5, "{target}: {}", seeds.len());
        for (name, octets) in &seeds {
            assert!(std::panic::catch_unwind(|| body(octets)).is_ok(), "{target}: seed {name} is a finding");
            if let Some(into) = &into {
                fs::create_dir_all(into.join(target)).unwrap();
                fs::write(into.join(target).join(name), octets).unwrap();
            }
        }
    }
}

/// Blind mutations of seeds and corpus, the same in every run: a sample of what fuzzing does, without its feedback.
/// `CKPT_DB_FUZZ_SECONDS=N` goes on for so long on each target, `CKPT_DB_FUZZ_TARGET=NAME` on one only.
#[test]
fn mutations_of_the_corpus_pass() {
    let seconds = std::env::var("CKPT_DB_FUZZ_SECONDS").ok().map(|text| Duration::from_secs(text.parse().unwrap()));
    let only = std::env::var("CKPT_DB_FUZZ_TARGET").ok();
    for (target, body) in
        bodies::TARGETS.into_iter().filter(|(target, _)| only.as_deref().is_none_or(|only| only == *target))
    {
        let mut pool: Vec<Vec<u8>> = seeds::of(target).into_iter().map(|(_, octets)| octets).collect();
        pool.extend(corpus_of(target).into_iter().map(|path| fs::read(path).unwrap()));
        let mut random = mutate::Random::new(seconds.map_or(1, |_| u64::from(std::process::id())));
        let (started, mut count, mut slowest) = (Instant::now(), 0_u64, Duration::ZERO);
        while seconds.map_or(count < MUTATIONS, |seconds| started.elapsed() < seconds) {
            let octets = mutate::one(&pool, &mut random);
            let begun = Instant::now();
            if std::panic::catch_unwind(|| body(&octets)).is_err() {
                let path = std::env::temp_dir().join(format!("{target}-finding"));
                fs::write(&path, &octets).unwrap();
                panic!("{target}: a finding after {count} mutations; it is in {}", path.display());
            }
            slowest = slowest.max(begun.elapsed());
            assert!(begun.elapsed() < SLOWEST, "{target}: {:?}: {octets:?}", begun.elapsed());
            count += 1;
        }
        println!("{target}: mutations of {} inputs in {:?}, the slowest in {slowest:?}", pool.len(), started.elapsed());
        println!("campaign: blind fuzzing, {target}: {count} inputs judged, 0 findings, 0 panics");
    }
}

fn corpus_of(target: &str) -> Vec<PathBuf> {
    let directory = Path::new("fuzz/corpus").join(target);
    let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

mod mutate {
    //! Random changes of octets, as fuzzers make them.

    /// Xorshift.
    pub(super) struct Random(u64);

    impl Random {
        pub(super) fn new(seed: u64) -> Self {
            Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
        }

        fn below(&mut self, end: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 16) as usize % end.max(1)
        }
    }

    const WORDS: [&[u8]; 24] = [
        b"null",
        b"{}",
        b"[]",
        b"\"\"",
        b"-1",
        b"1e999",
        b"18446744073709551616",
        b"\xff",
        b"\0",
        b"\n",
        b"---\n",
        b"../",
        b"..data",
        b"$(A)",
        b"\x1b[2J",
        b"\xe2\x80\xae",
        b"\\u0000",
        b"&a *a",
        b"<<: *a",
        b"!!binary x",
        b"optional",
        b"items",
        b"-----BEGIN PRIVATE KEY-----\n",
        b"\"metadata\":{\"name\":\"x\"}",
    ];

    pub(super) fn one(pool: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
        let mut octets = pool[random.below(pool.len())].clone();
        for _ in 0..=random.below(6) {
            let at = random.below(octets.len() + 1);
            let end = (at + 1 + random.below(32)).min(octets.len());
            match random.below(8) {
                0 | 1 if at < octets.len() => octets[at] ^= 1 << random.below(8),
                2 if at < octets.len() => octets[at] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'{', b' '][random.below(8)],
                3 => drop(octets.drain(at.min(end)..end)),
                4 => {
                    let copy = octets[at.min(end)..end].to_vec();
                    octets.splice(at..at, copy);
                }
                5 => {
                    let other = &pool[random.below(pool.len())];
                    let from = random.below(other.len() + 1);
                    let until = (from + random.below(512)).min(other.len());
                    octets.splice(at..at, other[from..until].iter().copied());
                }
                6 => drop(octets.splice(at..at, WORDS[random.below(WORDS.len())].iter().copied())),
                _ => octets.truncate(octets.len().saturating_sub(random.below(3))),
            }
        }
        octets
    }
}

mod seeds {
    //! Where fuzzing starts.

    use std::fs;

    use ckpt_db::checkpoint::object::Kind;
    use ckpt_db::source::manifests;
    use store_format::{Frame, Table, meta_key};

    use super::bodies::image;

    type Seed = (String, Vec<u8>);

    pub(super) fn of(target: &str) -> Vec<Seed> {
        match target {
            "records" => vectors(|decoder| !is_key(decoder)),
            "key_files" => {
                let mut seeds = vectors(is_key);
                seeds.extend(files("tests/data/keys"));
                seeds
            }
            "key_slots" => key_slots(),
            "manifests" => {
                let mut seeds = files("examples/node");
                seeds.push(("hostile.yaml".to_owned(), HOSTILE.as_bytes().to_vec()));
                seeds
            }
            "api_payload" => api_payloads(),
            "store_image" => images(),
            "recovery_code" => recovery_codes(),
            "admin_request" => admin_requests(),
            other => panic!("no seeds for {other}"),
        }
    }

    fn is_key(decoder: &str) -> bool {
        ["sec1", "pkcs8", "pkcs1"].contains(&decoder)
    }

    const HOSTILE: &str = include_str!("data/hostile.yaml");

    fn files(directory: &str) -> Vec<Seed> {
        let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let named = |path: std::path::PathBuf| {
            (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap())
        };
        paths.into_iter().filter(|path| path.is_file()).map(named).collect()
    }

    /// The octets of the format's vectors: a header, an empty line, hexadecimal.
    fn vectors(wanted: impl Fn(&str) -> bool) -> Vec<Seed> {
        let mut seeds = Vec::new();
        for (name, text) in files("store-format/vectors") {
            let text = String::from_utf8(text).unwrap();
            let Some((header, hex)) = text.split_once("\n\n") else { continue };
            let decoder = header.lines().find_map(|line| line.strip_prefix("decoder: ")).unwrap_or_default();
            let hex: String = hex.split_whitespace().collect();
            let octets = data_encoding::HEXLOWER_PERMISSIVE.decode(hex.as_bytes());
            if let Ok(octets) = octets
                && octets.len() < 8192
                && wanted(decoder)
            {
                seeds.push((name.trim_end_matches(".txt").to_owned(), octets));
            }
        }
        seeds
    }

    fn blob(octets: &[u8]) -> Vec<u8> {
        let mut out = u16::try_from(octets.len()).unwrap().to_le_bytes().to_vec();
        out.extend(octets);
        out
    }

    fn key_slots() -> Vec<Seed> {
        let right = image::sound().rows.iter().find(|row| row.table == Table::Slots).unwrap();
        let payload = Frame::decode(&right.bytes).unwrap().payload;
        let of = |flags: u8, key: &[u8], bytes: &[u8]| [&[flags][..], key, &blob(bytes)].concat();
        let mut seeds = vec![
            ("right".to_owned(), of(0, b"", payload)),
            ("mirror".to_owned(), of(2, b"", payload)),
            ("patched".to_owned(), of(1, b"", &[1, 4, 70, 0])),
            ("kept".to_owned(), of(16, b"", b"")),
            ("other-key".to_owned(), of(4, b"\x05a.b.c", payload)),
            ("other-frame".to_owned(), of(8, b"", &right.bytes)),
            ("two".to_owned(), [of(1, b"", &[60, 1]), of(2, b"", payload)].concat()),
            ("none".to_owned(), Vec::new()),
        ];
        for (name, octets) in vectors(|decoder| decoder == "slot") {
            if octets.len() < 1000 {
                seeds.push((name, of(0, b"", &octets)));
            }
        }
        seeds
    }

    fn api_payloads() -> Vec<Seed> {
        let mut seeds = Vec::new();
        let mut lines: Vec<(usize, Vec<u8>)> = Vec::new();
        for (name, text) in files("examples/node") {
            let (objects, _) = manifests::parse(&name, &text);
            for kind in Kind::ALL {
                let bodies: Vec<&[u8]> = objects
                    .iter()
                    .filter(|object| object.key.kind() == kind)
                    .map(|object| object.body.expose())
                    .collect();
                let Some(first) = bodies.first() else { continue };
                let place = Kind::ALL.iter().position(|other| *other == kind).unwrap();
                let number = u8::try_from(place).unwrap();
                let head = |what| vec![what, number, 7];
                seeds.push((format!("object-{}-{name}", kind.row().name), [&head(0)[..], first].concat()));
                let list = [
                    format!(
                        "{{\"kind\":\"{}List\",\"apiVersion\":\"v1\",\"metadata\":{{\"resourceVersion\":\"7\"}},\"items\":[",
                        kind.row().name
                    )
                    .as_bytes(),
                    &bodies.join(&b","[..]),
                    b"]}",
                ]
                .concat();
                seeds.push((format!("list-{}-{name}", kind.row().name), [&head(1)[..], &list].concat()));
                lines.push((place, first.to_vec()));
            }
        }
        for (place, body) in lines {
            let mut watch = vec![2, u8::try_from(place).unwrap(), 13];
            for what in ["ADDED", "MODIFIED", "DELETED"] {
                watch.extend(format!("{{\"type\":\"{what}\",\"object\":").bytes());
                watch.extend(&body);
                watch.extend(b"}\n");
            }
            watch.extend(BOOKMARK.bytes());
            watch.extend(EXPIRED.bytes());
            seeds.push((format!("watch-{place}-{}", seeds.len()), watch));
        }
        seeds.push(("status".to_owned(), [b"\x03\x00\x00", STATUS.as_bytes()].concat()));
        seeds
    }

    const BOOKMARK: &str = "{\"type\":\"BOOKMARK\",\"object\":{\"kind\":\"Pod\",\"apiVersion\":\"v1\",\"metadata\":{\"resourceVersion\":\"9\",\"annotations\":{\"k8s.io/initial-events-end\":\"true\"}}}}\n";
    const EXPIRED: &str = "{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"status\":\"Failure\",\"reason\":\"Expired\",\"code\":410}}\n";
    const STATUS: &str = "{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{},\"status\":\"Failure\",\"message\":\"m\",\"reason\":\"Timeout\",\"details\":{\"causes\":[{\"reason\":\"ResourceVersionTooLarge\",\"message\":\"Too large resource version\"}],\"retryAfterSeconds\":1},\"code\":504}";

    fn images() -> Vec<Seed> {
        let patch =
            |at: u32, octets: &[u8]| [&at.to_le_bytes()[..3], &[u8::try_from(octets.len()).unwrap()], octets].concat();
        let mut seeds = vec![
            ("empty".to_owned(), vec![0]),
            ("magic".to_owned(), [&[0][..], &image::sound().image[..512]].concat()),
            ("unchanged".to_owned(), vec![1, 0]),
            ("cut".to_owned(), vec![1, 9]),
            ("header".to_owned(), [&[1, 0][..], &patch(9, &[0xff; 3])].concat()),
            ("page".to_owned(), [&[1, 0][..], &patch(8192, &[0; 255])].concat()),
            ("two-pages".to_owned(), [&[1, 0][..], &patch(5000, &[1; 8]), &patch(12_300, &[2; 8])].concat()),
        ];
        for (number, octets) in (0..16_u32).zip([0xff_u8, 0x00, 0x80, 0x7f].into_iter().cycle()) {
            seeds.push((
                format!("flip-{number}"),
                [&[1, 0][..], &patch(4096 * number + 37 * number, &[octets; 4])].concat(),
            ));
        }
        // Each vector in the table that it is of, in a sound frame, beside everything else.
        for (decoder, table) in [("meta", 0_u8), ("slot", 1), ("envelope", 2), ("pod-row", 3), ("log", 4)] {
            for (name, octets) in vectors(|found| found == decoder) {
                for base in [2_u8, 3] {
                    seeds.push((format!("row-{name}-{base}"), [&[base, table, 0][..], &blob(&octets)].concat()));
                }
            }
        }
        for (decoder, key) in
            [("identity", meta_key::IDENTITY), ("state", meta_key::STATE), ("format", meta_key::FORMAT)]
        {
            for (name, octets) in vectors(|found| found == decoder) {
                let key = [&[u8::try_from(key.len()).unwrap()][..], key.as_bytes()].concat();
                seeds.push((format!("row-{name}"), [&[2, 0x10][..], &key, &blob(&octets)].concat()));
            }
        }
        seeds.push(("removed".to_owned(), vec![3, 0xc0, 0, 0, 0]));
        seeds
    }
    /// A code as it is printed, as people copy it, and with a slip of the pen.
    fn recovery_codes() -> Vec<Seed> {
        let text = store_format::recovery_code_text(&[0x5a; 20], ckpt_db::crypto::sha256).to_string();
        let mut seeds: Vec<Seed> = [
            ("empty", String::new()),
            ("printed", text.clone()),
            ("mailed", format!("\n  {} \r\n", text.to_lowercase().replace('-', "  "))),
            ("as-letters", text.replace('0', "O").replace('1', "l")),
            ("short", text[..30].to_owned()),
            ("swapped", format!("{}{}", &text[5..], &text[..5])),
            ("foreign", text.replacen('-', "\u{2014}", 1)),
            ("zeros", "0000-".repeat(9)),
        ]
        .map(|(name, text)| (name.to_owned(), text.into_bytes()))
        .into();
        seeds.push(("no-utf-8".to_owned(), vec![0xff; 36]));
        for (name, slip) in [("other-symbol", [3, 7, 9]), ("removed", [3, 130, 0]), ("changed-places", [7, 170, 0])] {
            seeds.push((format!("slip-{name}"), [&[0xa5; 20][..], &slip].concat()));
        }
        seeds
    }

    /// Requests of every kind, and what comes near.
    fn admin_requests() -> Vec<Seed> {
        let print = "0f".repeat(32);
        let key = |kind: &str, rest: &str| {
            format!(r#""keys":{{"add":[{{"kind":"{kind}",{rest}}}],"remove":["{print}"],"rewrap":true}}"#)
        };
        let file = format!(r#""secret":"{}""#, data_encoding::BASE64.encode(&[b'k'; 32]));
        let code = format!(r#""secret":"{}""#, data_encoding::BASE64.encode(&[7; 20]));
        let seed = format!(
            r#""algorithm":"ed25519","public":"cHVibGlj","secret":"{}""#,
            data_encoding::BASE64.encode(&[7; 32])
        );
        let rows = [
            ("status", r#""get":"status""#.to_owned()),
            ("image", r#""get":"image""#.to_owned()),
            ("hold", r#""hold":"kube-system/kube-apiserver""#.to_owned()),
            ("release", r#""release":"kube-system/kube-apiserver""#.to_owned()),
            ("hold-nothing", r#""hold":"/\u001b[2J""#.to_owned()),
            ("yield", r#""yield":{"uid":"7d0b1a2c"}"#.to_owned()),
            ("both", r#""get":"image","hold":"a/b""#.to_owned()),
            ("null", r#""get":null,"hold":"a/b""#.to_owned()),
            ("twice", r#""hold":"a/b","hold":"c/d""#.to_owned()),
            ("nothing", r#""more":[]"#.to_owned()),
            ("key-file", key("key-file", &file)),
            ("credential", key("credential", &file)),
            ("recovery-code", key("recovery-code", &code)),
            ("node-key", key("node-key", &seed)),
            ("wrong-kind", key("recovery-code", &file)),
            ("escaped", key("key-file", r#""\u0073ecret":"\u004bept to itself""#)),
        ];
        let asked = |(name, member): (&str, String)| {
            (
                name.to_owned(),
                format!("{{\"apiVersion\":\"{}\",{member}}}\n", ckpt_db::ops::status::API_VERSION).into_bytes(),
            )
        };
        let mut seeds: Vec<Seed> = rows.map(asked).into();
        seeds.push(("other-version".to_owned(), br#"{"apiVersion":"v0","get":"status"}"#.to_vec()));
        seeds.push(("empty".to_owned(), Vec::new()));
        seeds
    }
}
