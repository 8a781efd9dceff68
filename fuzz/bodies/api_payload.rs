//! What an API server, or something in its place, answers: one object, a list, a `Status`, the lines of a watch.
//!
//! The first octet says which, the second the kind, the third into what pieces a watch is cut.

use ckpt_db::checkpoint::object::{Kind, Object};
use ckpt_db::source::api::body::{error_status, listing, object};
use ckpt_db::source::api::events::{Decoder, Event, EventError};

use super::{Input, assert_shown, pipeline};

/// The target's body.
pub fn run(octets: &[u8]) {
    let mut input = Input(octets);
    let (what, kind, piece) = (input.octet(), input.octet(), input.octet());
    let kind = Kind::ALL[usize::from(kind) % Kind::ALL.len()];
    let raw = input.0;
    let mut objects = Vec::new();
    match what % 4 {
        0 => match object(raw, kind) {
            Ok(object) => objects.push(object),
            Err(error) => assert_shown(&error.to_string()),
        },
        1 => match listing(raw, kind) {
            Ok(page) => {
                page.bad.iter().for_each(|error| assert_shown(&error.to_string()));
                objects = page.objects;
            }
            Err(error) => assert_shown(&error.to_string()),
        },
        2 => {
            let whole = events(raw, raw.len().max(1), kind);
            // Where the bytes are cut changes nothing.
            assert_eq!(whole, events(raw, usize::from(piece).max(1), kind));
            for event in whole.0 {
                match event {
                    Ok(Event::Applied(object) | Event::Deleted(object)) => objects.push(object),
                    Ok(Event::Bookmark { .. }) => {}
                    Ok(Event::Error(status)) => assert_shown(&status.reason),
                    Err(error) => assert_shown(&error.to_string()),
                }
            }
        }
        _ => {
            if let Some(status) = error_status(raw) {
                assert_shown(&status.reason);
            }
        }
    }
    for object in &objects {
        is_exact(object, kind);
    }
    if !objects.is_empty() {
        pipeline::judge(objects);
    }
}

/// What was taken is of the kind that was asked for, and reads as itself again, byte for byte.
fn is_exact(read: &Object, kind: Kind) {
    assert_eq!(read.key.kind(), kind);
    assert_shown(&read.key.to_string());
    assert_eq!(object(read.body.expose(), kind).as_ref(), Ok(read));
}

type Events = (Vec<Result<Event, EventError>>, bool);

fn events(raw: &[u8], piece: usize, kind: Kind) -> Events {
    let mut decoder = Decoder::new(kind);
    let mut events = Vec::new();
    for piece in raw.chunks(piece) {
        decoder.push(piece);
        events.extend(decoder.by_ref());
    }
    (events, decoder.is_inside_event())
}
