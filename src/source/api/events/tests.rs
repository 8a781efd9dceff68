//! Streams cut at every position give the same events, and hostile lines never panic.

use proptest::prelude::*;

use super::*;

fn secret(name: &str) -> String {
    format!(
        r#"{{"kind":"Secret","apiVersion":"v1","metadata":{{"name":"{name}","namespace":"d","uid":"u","resourceVersion":"1"}},"data":{{"k":"Y2FuYXJ5"}}}}"#
    )
}

fn event_of(kind: &str, object: &str) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

fn shown(event: &Result<Event, EventError>) -> String {
    match event {
        Ok(Event::Applied(object)) => format!("applied {}", object.key.name()),
        Ok(Event::Deleted(object)) => format!("deleted {} {}", object.key.name(), object.uid),
        Ok(Event::Bookmark { resource_version, initial_events_end }) => {
            format!("bookmark {resource_version}{}", if *initial_events_end { " end" } else { "" })
        }
        Ok(Event::Error(status)) => format!("error {} {}", status.code, status.reason),
        Err(error) => error.to_string(),
    }
}

fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Result<Event, EventError>>, Decoder) {
    let mut decoder = Decoder::new(Kind::Secret);
    let mut events = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        events.extend(&mut decoder);
    }
    (events, decoder)
}

fn stream() -> String {
    [
        event_of("ADDED", &secret("a")),
        "\n \r\n".to_owned(),
        event_of("MODIFIED", &secret("b")),
        event_of("ADDED", r#"{"metadata":{"name":"c","namespace":"d"}}"#),
        event_of("BOOKMARK", r#"{"kind":"Secret","apiVersion":"v1","metadata":{"resourceVersion":"7"}}"#),
        event_of("DELETED", &secret("e")).replace('\n', "\r\n"),
        event_of("ERROR", r#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","code":410}"#),
    ]
    .concat()
}

#[test]
fn each_line_is_an_event() {
    const NO_EVENT: &str = "cannot read a watch event: ";
    #[rustfmt::skip]
    let rows = [
        (event_of("ADDED", &secret("a")),                                                      "applied a".to_owned()),
        (event_of("MODIFIED", &secret("a")),                                                   "applied a".to_owned()),
        (event_of("DELETED", &secret("a")),                                                    "deleted a u".to_owned()),
        (format!("{{\"object\":{},\"type\":\"ADDED\"}}\n", secret("a")),                       "applied a".to_owned()),
        (format!("{{ \"type\" : \"DELETED\", \"object\" : {} }}\n", secret("a")),              "deleted a u".to_owned()),
        (format!("{{\"type\":\"\\u0041DDED\",\"object\":{}}}\n", secret("a")),                 "applied a".to_owned()),
        (event_of("ADDED", &format!("{}}}", secret("a"))),                                     format!("{NO_EVENT}it is not JSON (line 1, column 158)")),
        (event_of("BOOKMARK", r#"{"metadata":{"resourceVersion":"7","creationTimestamp":null}}"#), "bookmark 7".to_owned()),
        (event_of("BOOKMARK", r#"{"metadata":{"resourceVersion":"7","annotations":{"k8s.io/initial-events-end":"true"}}}"#), "bookmark 7 end".to_owned()),
        (event_of("BOOKMARK", r#"{"metadata":{"resourceVersion":"7","annotations":{"k8s.io/initial-events-end":"false"}}}"#), "bookmark 7".to_owned()),
        (event_of("BOOKMARK", r#"{"metadata":{}}"#),                                           "cannot read a Secret that the API server sent: metadata.resourceVersion is not 1 to 128 printable ASCII characters".to_owned()),
        (event_of("ERROR", r#"{"kind":"Status","apiVersion":"v1","code":500}"#),               "error 500 ".to_owned()),
        (event_of("ERROR", r#"{"kind":"Status","apiVersion":"v1","status":"Success"}"#),       "cannot read a watch event of type ERROR: it holds no Status of a failure".to_owned()),
        (event_of("ERROR", &secret("a")),                                                      "cannot read a watch event of type ERROR: it holds no Status of a failure".to_owned()),
        (event_of("RENAMED", &secret("a")),                                                    format!("{NO_EVENT}its type is none of ADDED, MODIFIED, DELETED, BOOKMARK and ERROR")),
        (event_of("ADDED", r#""canary""#),                                                     "cannot read a Secret that the API server sent: the object is not a JSON object".to_owned()),
        (event_of("ADDED", r#"{"kind":"Status","apiVersion":"v1","message":"canary"}"#),       "cannot read a Secret that the API server sent: it says that it is v1 Status".to_owned()),
        ("{\"type\":\"ADDED\"}\n".to_owned(),                                                  format!("{NO_EVENT}object is not there")),
        ("{\"object\":{\"canary\":1}}\n".to_owned(),                                           format!("{NO_EVENT}type is not text")),
        ("{\"type\":\"canary\n".to_owned(),                                                    format!("{NO_EVENT}it is not JSON (line 1, column 15)")),
        (event_of("ADDED", &format!("{},\"type\":\"DELETED\"", secret("a"))),                  format!("{NO_EVENT}a member of the event stands twice")),
        ("canary\n".to_owned(),                                                                format!("{NO_EVENT}it is not JSON (line 1, column 1)")),
        ("[]\n".to_owned(),                                                                    format!("{NO_EVENT}the event is not a JSON object")),
    ];
    for (line, want) in rows {
        // What comes after it is read as if nothing had been.
        let raw = line.clone() + &event_of("ADDED", &secret("z"));
        let (events, _) = decode([raw.as_bytes()]);
        assert_eq!(events.iter().map(shown).collect::<Vec<_>>(), [want.as_str(), "applied z"], "{line}");
        assert!(!format!("{events:?}").contains("canary"), "{events:?}");
    }
}

#[test]
fn a_stream_may_be_cut_anywhere() {
    let raw = stream();
    let (whole, _) = decode([raw.as_bytes()]);
    assert_eq!(
        whole.iter().map(shown).collect::<Vec<_>>(),
        [
            "applied a",
            "applied b",
            "cannot read Secret d/c that the API server sent: metadata.uid is not 1 to 128 printable ASCII characters",
            "bookmark 7",
            "deleted e u",
            "error 410 Expired",
        ]
    );
    for at in 0..=raw.len() {
        let (first, second) = raw.as_bytes().split_at(at);
        let (events, decoder) = decode([first, second]);
        assert!(events == whole && !decoder.is_inside_event(), "cut at {at}");
        let (events, decoder) = decode([first]);
        assert_eq!(events, whole[..events.len()], "ended at {at}");
        let rest = raw[..at].rsplit('\n').next().unwrap();
        assert_eq!(decoder.is_inside_event(), !rest.trim().is_empty(), "ended at {at}");
    }
    let (events, _) = decode(raw.as_bytes().chunks(1));
    assert_eq!(events, whole);
}

#[test]
fn a_line_without_end_finishes_the_decoder() {
    let first = event_of("ADDED", &secret("a"));
    let filler = vec![b' '; LINE_MAX_BYTES - 1];
    // At the limit it is a line, in one piece or without its end.
    let (events, mut decoder) = decode([first.as_bytes(), b"7", &filler]);
    assert_eq!((events.len(), decoder.is_inside_event()), (1, true));
    decoder.push(b"\n");
    assert!(matches!(decoder.next(), Some(Err(EventError::Malformed(_)))));
    decoder.push(first.as_bytes());
    assert!(matches!(decoder.next(), Some(Ok(Event::Applied(_)))));

    for end in [&b" "[..], b" \n"] {
        let (events, mut decoder) = decode([first.as_bytes(), b"7", &filler, end]);
        assert!(matches!(events[..], [Ok(_), Err(EventError::TooLong)]), "{events:?}");
        decoder.push(first.as_bytes());
        assert!(decoder.next().is_none() && !decoder.is_inside_event() && decoder.pending.capacity() == 0);
    }
}

#[test]
fn nothing_of_an_event_stays_in_the_buffer() {
    let (first, second) = (event_of("ADDED", &secret("a")), event_of("ADDED", &secret("b")));
    let mut decoder = Decoder::new(Kind::Secret);
    decoder.push((first.clone() + &second).as_bytes());
    assert!(decoder.next().is_some());
    assert!(decoder.pending[..first.len()].iter().all(|byte| *byte == 0));
    assert!(decoder.next().is_some());
    assert_eq!(decoder.pending.capacity(), 0);
}

proptest! {
    #[test]
    fn any_pieces_give_the_same_events(sizes in proptest::collection::vec(1_usize..200, 1..40)) {
        let raw = stream();
        let mut rest = raw.as_bytes();
        let mut pieces = Vec::new();
        for size in sizes.into_iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, tail) = rest.split_at(size.min(rest.len()));
            pieces.push(piece);
            rest = tail;
        }
        prop_assert_eq!(decode(pieces).0, decode([raw.as_bytes()]).0);
    }

    #[test]
    fn hostile_lines_never_panic_and_cost_no_other(
        line in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..60),
            "\\{\"type\":\"(ADDED|BOOKMARK|ERROR|X)\",\"object\":[\\[\\]{}\",:a0 \\\\]{0,12}\\}?".prop_map(String::into_bytes),
        ],
    ) {
        prop_assume!(!line.contains(&b'\n'));
        let good = event_of("ADDED", &secret("z"));
        let (events, decoder) = decode([line.as_slice(), b"\n", good.as_bytes()]);
        prop_assert!(matches!(events.last(), Some(Ok(Event::Applied(_)))));
        prop_assert!(events.len() <= 2 && !decoder.is_inside_event());
    }
}
