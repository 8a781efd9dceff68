//! Tables of bodies as servers send them, and random ones: every byte that is kept is the byte that was sent.

use proptest::prelude::*;

use super::*;

fn body_of(raw: &str, kind: Kind) -> String {
    let object = object(raw.as_bytes(), kind).unwrap_or_else(|error| panic!("{raw}: {error}"));
    String::from_utf8(object.body.expose().to_vec()).unwrap()
}

#[test]
fn the_stored_body_is_what_was_sent_less_managed_fields() {
    #[rustfmt::skip]
    let rows = [
        // As it is.
        (r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s","namespace":"d","uid":"u","resourceVersion":"1"},"data":{"k":"QQ=="}}"#,
         r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s","namespace":"d","uid":"u","resourceVersion":"1"},"data":{"k":"QQ=="}}"#),
        // An item of a list says neither apiVersion nor kind.
        (r#"{"metadata":{"name":"s","namespace":"d","uid":"u","resourceVersion":"1"}}"#,
         r#"{"kind":"Secret","apiVersion":"v1","metadata":{"name":"s","namespace":"d","uid":"u","resourceVersion":"1"}}"#),
        (r#"{"kind":"Secret","metadata":{"name":"s","namespace":"d","uid":"u","resourceVersion":"1"}}"#,
         r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s","namespace":"d","uid":"u","resourceVersion":"1"}}"#),
        (r#"{"metadata":{"name":"s","namespace":"d","uid":"u","resourceVersion":"1"},"apiVersion":"v1"}"#,
         r#"{"kind":"Secret","metadata":{"name":"s","namespace":"d","uid":"u","resourceVersion":"1"},"apiVersion":"v1"}"#),
        // managedFields first, in the middle, last.
        (r#"{"metadata":{"managedFields":[{"a":{}}],"name":"s","namespace":"d","uid":"u","resourceVersion":"1"},"apiVersion":"v1","kind":"Secret"}"#,
         r#"{"metadata":{"name":"s","namespace":"d","uid":"u","resourceVersion":"1"},"apiVersion":"v1","kind":"Secret"}"#),
        (r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s","managedFields":null,"namespace":"d","uid":"u","resourceVersion":"1"}}"#,
         r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s","namespace":"d","uid":"u","resourceVersion":"1"}}"#),
        (r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s","namespace":"d","uid":"u","resourceVersion":"1","managedFields":[]},"x":1}"#,
         r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s","namespace":"d","uid":"u","resourceVersion":"1"},"x":1}"#),
        // Spelled with an escape it is the same member.
        (r#"{"apiVersion":"v1","kind":"Secret","\u006detadata":{"n\u0061me":"\u0073","namespace":"d","uid":"u","resourceVersion":"1","managed\u0046ields":[]}}"#,
         r#"{"apiVersion":"v1","kind":"Secret","\u006detadata":{"n\u0061me":"\u0073","namespace":"d","uid":"u","resourceVersion":"1"}}"#),
        // managedFields elsewhere is somebody's data; numbers, escapes and unknown fields are as they were.
        (r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s","namespace":"d","uid":"u","resourceVersion":"1","generation":1.0e2,"annotations":{"managedFields":"\/\u00e4"}},"managedFields":{"z":-0,"a":1e400,"a":1}}"#,
         r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s","namespace":"d","uid":"u","resourceVersion":"1","generation":1.0e2,"annotations":{"managedFields":"\/\u00e4"}},"managedFields":{"z":-0,"a":1e400,"a":1}}"#),
        // Spaces between members may go.
        ("{ \"apiVersion\" : \"v1\",\n \"kind\": \"Secret\", \"metadata\" : {\"managedFields\": [ ] , \"name\": \"s\", \"namespace\": \"d\",\"uid\":\"u\",\"resourceVersion\":\"1\"} }\n",
         r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s","namespace":"d","uid":"u","resourceVersion":"1"}}"#),
    ];
    for (raw, want) in rows {
        assert_eq!(body_of(raw, Kind::Secret), want, "{raw}");
    }
}

#[test]
fn names_uid_and_version_are_read() {
    let raw = r#"{"metadata":{"name":"web-0","namespace":"prod","uid":"7c\u002d1","resourceVersion":"42"}}"#;
    let pod = object(raw.as_bytes(), Kind::Pod).unwrap();
    assert_eq!((pod.key.to_string().as_str(), pod.uid.as_str()), ("Pod prod/web-0", "7c-1"));
    assert_eq!(pod.resource_version, "42");
    let raw = r#"{"metadata":{"name":"edge-1","uid":"u","resourceVersion":"1"}}"#;
    assert_eq!(object(raw.as_bytes(), Kind::Node).unwrap().key.to_string(), "Node edge-1");
}

/// Each row holds `canary` where a value is, and no message shows it.
#[test]
fn what_is_no_such_object_is_refused_without_being_quoted() {
    const A_SECRET: &str = "cannot read a Secret that the API server sent: ";
    const THE_SECRET: &str = "cannot read Secret d/s that the API server sent: ";
    #[rustfmt::skip]
    let rows = [
        ("",                                                                                        A_SECRET, "it is not JSON (line 1, column 0)"),
        (r#"{"data":"canary"#,                                                                      A_SECRET, "it is not JSON (line 1, column 15)"),
        (r#"{"data":"canary"} canary"#,                                                             A_SECRET, "it is not JSON (line 1, column 19)"),
        (r#"{"data":"canary","#,                                                                    A_SECRET, "it is not JSON (line 1, column 17)"),
        ("{\"data\":\"canary\u{1}\"}",                                                              A_SECRET, "it is not JSON (line 1, column 15)"),
        (r#""canary""#,                                                                             A_SECRET, "the object is not a JSON object"),
        (r#"["canary"]"#,                                                                           A_SECRET, "the object is not a JSON object"),
        ("null",                                                                                    A_SECRET, "the object is not a JSON object"),
        (r#"{"\ud800canary":1}"#,                                                                   A_SECRET, "the object is not a JSON object whose names are valid text"),
        (r#"{"data":"canary"}"#,                                                                    A_SECRET, "metadata is not a JSON object"),
        (r#"{"metadata":"canary"}"#,                                                                A_SECRET, "metadata is not a JSON object"),
        (r#"{"metadata":{},"metadata":{"name":"canary"}}"#,                                         A_SECRET, "a member of the object stands twice"),
        (r#"{"metadata":{},"met\u0061data":{"name":"canary"}}"#,                                    A_SECRET, "a member of the object stands twice"),
        (r#"{"metadata":{"canary":1,"canary":2}}"#,                                                 A_SECRET, "a member of metadata stands twice"),
        (r#"{"kind":"ConfigMap","apiVersion":"v1","data":"canary"}"#,                               A_SECRET, "it says that it is v1 ConfigMap"),
        (r#"{"kind":"Secret","apiVersion":"v2","data":"canary"}"#,                                  A_SECRET, "it says that it is v2 Secret"),
        (r#"{"kind":"Status","apiVersion":"v1","message":"canary"}"#,                               A_SECRET, "it says that it is v1 Status"),
        (r#"{"kind":"canary","apiVersion":"v1"}"#,                                                  A_SECRET, "it says that it is something else"),
        (r#"{"kind":["canary"]}"#,                                                                  A_SECRET, "it says that it is something else"),
        (r#"{"kind":"Secret","apiVersion":"canary !"}"#,                                            A_SECRET, "it says that it is a Secret"),
        (r#"{"metadata":{"name":["canary"]}}"#,                                                     A_SECRET, "metadata.name is not text"),
        (r#"{"metadata":{"name":"s"},"data":"canary"}"#,                                            A_SECRET, "kind Secret needs a namespace"),
        (r#"{"metadata":{"name":null,"namespace":"d"}}"#,                                           A_SECRET, "metadata.name \"\" is not a lower-case RFC 1123 subdomain of at most 253 characters"),
        (r#"{"metadata":{"name":"s","namespace":"d/.."},"data":"canary"}"#,                         A_SECRET, "metadata.namespace \"d/..\" is not a lower-case RFC 1123 label of at most 63 characters"),
        (r#"{"metadata":{"name":"s","namespace":"d","resourceVersion":"1"},"data":"canary"}"#,      THE_SECRET, "metadata.uid is not 1 to 128 printable ASCII characters"),
        (r#"{"metadata":{"name":"s","namespace":"d","uid":"","resourceVersion":"1"}}"#,             THE_SECRET, "metadata.uid is not 1 to 128 printable ASCII characters"),
        (r#"{"metadata":{"name":"s","namespace":"d","uid":"can ary","resourceVersion":"1"}}"#,      THE_SECRET, "metadata.uid is not 1 to 128 printable ASCII characters"),
        (r#"{"metadata":{"name":"s","namespace":"d","uid":"u"},"data":"canary"}"#,                  THE_SECRET, "metadata.resourceVersion is not 1 to 128 printable ASCII characters"),
        (r#"{"metadata":{"name":"s","namespace":"d","uid":"u","resourceVersion":7}}"#,              THE_SECRET, "metadata.resourceVersion is not 1 to 128 printable ASCII characters"),
    ];
    for (raw, subject, want) in rows {
        let error = object(raw.as_bytes(), Kind::Secret).unwrap_err();
        assert_eq!(error.to_string(), format!("{subject}{want}"), "{raw}");
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
        assert_eq!(error.object.is_some(), subject == THE_SECRET);
    }
}

#[test]
fn limits_are_exact() {
    let frame = r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s","namespace":"d","uid":"u","resourceVersion":"1"},"data":""}"#;
    let of_bytes =
        |bytes: usize| frame.replace(r#""data":"""#, &format!(r#""data":"{}""#, "A".repeat(bytes - frame.len())));
    assert_eq!(object(of_bytes(OBJECT_MAX_BYTES).as_bytes(), Kind::Secret).unwrap().body.len(), OBJECT_MAX_BYTES);
    let error = object(of_bytes(OBJECT_MAX_BYTES + 1).as_bytes(), Kind::Secret).unwrap_err();
    assert_eq!(error.problem, BodyProblem::TooLarge { bytes: OBJECT_MAX_BYTES + 1 });
    // What is not stored does not count.
    let managed = format!(r#""managedFields":"{}","name""#, "A".repeat(OBJECT_MAX_BYTES));
    assert!(object(frame.replace(r#""name""#, &managed).as_bytes(), Kind::Secret).is_ok());

    for (bytes, fine) in [(128, true), (129, false)] {
        let long = "1".repeat(bytes);
        let uid = frame.replace(r#""uid":"u""#, &format!(r#""uid":"{long}""#));
        assert_eq!(object(uid.as_bytes(), Kind::Secret).is_ok(), fine);
        let version = frame.replace(r#"Version":"1""#, &format!(r#"Version":"{long}""#));
        assert_eq!(object(version.as_bytes(), Kind::Secret).is_ok(), fine);
    }
}

fn shown(listing: &Listing) -> String {
    let objects: Vec<_> = listing.objects.iter().map(|object| object.key.name()).collect();
    let bad: Vec<_> = listing.bad.iter().map(|error| error.object.as_ref().map_or("?", ObjectKey::name)).collect();
    format!("{} at {} next {:?} bad {}", objects.join(","), listing.resource_version, listing.next, bad.join(","))
}

#[test]
fn a_list_is_read_page_by_page_and_a_bad_item_costs_no_other() {
    let item =
        |name: &str| format!(r#"{{"metadata":{{"name":"{name}","namespace":"d","uid":"u","resourceVersion":"1"}}}}"#);
    let (a, b) = (item("a"), item("b"));
    let nameless = item("B/");
    let no_uid = item("c").replace(r#""uid":"u","#, "");
    let other = item("e").replace("{\"metadata", "{\"kind\":\"Pod\",\"metadata");
    let list = |metadata: &str, items: &str| {
        format!(r#"{{"kind":"SecretList","apiVersion":"v1","metadata":{metadata}{items}}}"#)
    };
    #[rustfmt::skip]
    let rows = [
        (list(r#"{"resourceVersion":"9"}"#, r#","items":[]"#),                                     " at 9 next None bad "),
        (list(r#"{"resourceVersion":"9"}"#, r#","items":null"#),                                   " at 9 next None bad "),
        (list(r#"{"resourceVersion":"9","continue":""}"#, ""),                                     " at 9 next None bad "),
        (list(r#"{"resourceVersion":"9","continue":null}"#, ""),                                   " at 9 next None bad "),
        (list(r#"{"resourceVersion":"9","continue":"ey\u003d"}"#, &format!(r#","items":[{a}]"#)),  "a at 9 next Some(\"ey=\") bad "),
        (list(r#"{"resourceVersion":"9"}"#, &format!(r#","items":[{a}, {b}]"#)),                   "a,b at 9 next None bad "),
        (list(r#"{"resourceVersion":"9"}"#, &format!(r#","items":[{nameless},{a},7,{no_uid},{other},{b}]"#)), "a,b at 9 next None bad ?,?,c,?"),
    ];
    for (raw, want) in rows {
        assert_eq!(shown(&listing(raw.as_bytes(), Kind::Secret).unwrap()), want, "{raw}");
    }
    let whole =
        listing(list(r#"{"resourceVersion":"9"}"#, &format!(r#","items":[{a}]"#)).as_bytes(), Kind::Secret).unwrap();
    assert_eq!(
        whole.objects[0].body.expose(),
        format!("{{\"kind\":\"Secret\",\"apiVersion\":\"v1\",{}", &a[1..]).as_bytes()
    );
}

#[test]
fn what_is_no_such_list_says_nothing_about_objects() {
    #[rustfmt::skip]
    let rows = [
        ("",                                                                                               "it is not JSON (line 1, column 0)"),
        ("[]",                                                                                             "the list is not a JSON object"),
        (r#"{"metadata":{"resourceVersion":"9"},"items":[]}"#,                                             "it says that it is something else"),
        (r#"{"kind":"SecretList","metadata":{"resourceVersion":"9"},"items":[]}"#,                         "it says that it is a SecretList"),
        (r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"9"},"items":[]}"#,          "it says that it is v1 PodList"),
        (r#"{"kind":"Secret","apiVersion":"v1","metadata":{"resourceVersion":"9"},"items":[]}"#,           "it says that it is v1 Secret"),
        (r#"{"kind":"Status","apiVersion":"v1","metadata":{},"message":"canary"}"#,                        "it says that it is v1 Status"),
        (r#"{"kind":"SecretList","apiVersion":"v1","items":[]}"#,                                          "metadata is not a JSON object"),
        (r#"{"kind":"SecretList","apiVersion":"v1","metadata":{},"items":[]}"#,                            "metadata.resourceVersion is not 1 to 128 printable ASCII characters"),
        (r#"{"kind":"SecretList","apiVersion":"v1","metadata":{"resourceVersion":""},"items":[]}"#,        "metadata.resourceVersion is not 1 to 128 printable ASCII characters"),
        (r#"{"kind":"SecretList","apiVersion":"v1","metadata":{"resourceVersion":"9"},"items":{}}"#,       "items is not a JSON array"),
        (r#"{"kind":"SecretList","apiVersion":"v1","metadata":{"resourceVersion":"9"},"items":"canary"}"#, "items is not a JSON array"),
        (r#"{"kind":"SecretList","apiVersion":"v1","metadata":{"resourceVersion":"9"},"items":[],"items":[1]}"#, "a member of the list stands twice"),
        (r#"{"kind":"SecretList","apiVersion":"v1","metadata":{"resourceVersion":"9","continue":"a b"}}"#, "metadata.continue is not 1 to 4096 printable ASCII characters"),
        (r#"{"kind":"SecretList","apiVersion":"v1","metadata":{"resourceVersion":"9"},"items":["canary"#,  "it is not JSON (line 1, column 90)"),
    ];
    for (raw, want) in rows {
        let message = listing(raw.as_bytes(), Kind::Secret).unwrap_err().to_string();
        assert_eq!(message, format!("cannot read a list of secrets that the API server sent: {want}"), "{raw}");
    }
}

#[test]
fn a_status_is_read_without_its_message() {
    let status = |code, reason: &str, retry_after_s, too_large_resource_version| {
        Some(ErrorStatus { code, reason: reason.to_owned(), retry_after_s, too_large_resource_version })
    };
    #[rustfmt::skip]
    let rows = [
        (r#""status":"Failure","message":"too old","reason":"Expired","code":410"#,                                        status(410, "Expired", None, false)),
        (r#""metadata":{},"status":"Failure","reason":"NotFound","details":{"name":"s","kind":"secrets"},"code":404"#,     status(404, "NotFound", None, false)),
        (r#""reason":"TooManyRequests","details":{"retryAfterSeconds":7},"code":429"#,                                     status(429, "TooManyRequests", Some(7), false)),
        (r#""details":{"retryAfterSeconds":0},"code":500"#,                                                                status(500, "", None, false)),
        (r#""details":{"retryAfterSeconds":-1},"code":500"#,                                                               status(500, "", None, false)),
        (r#""details":"canary","code":500"#,                                                                               status(500, "", None, false)),
        (r#""reason":"Timeout","code":504,"details":{"causes":[{"reason":"ResourceVersionTooLarge","message":"Too large resource version"}],"retryAfterSeconds":1}"#,
                                                                                                                           status(504, "Timeout", Some(1), true)),
        (r#""reason":"Timeout","code":504,"details":{"causes":[7,{"message":"Too large resource version"}]}"#,             status(504, "Timeout", None, true)),
        (r#""reason":"Timeout","code":504,"message":"Timeout: Too large resource version: 9, current: 3""#,                status(504, "Timeout", None, true)),
        (r#""reason":"Timeout","code":504,"message":"etcd""#,                                                              status(504, "Timeout", None, false)),
        (r#""reason":"Invalid","code":422,"message":"Too large resource version""#,                                        status(422, "Invalid", None, false)),
        (r#""reason":"the canary sings","code":500"#,                                                                      status(500, "", None, false)),
        (r#""reason":["canary"],"code":"canary""#,                                                                         status(0, "", None, false)),
        (r#""code":70000"#,                                                                                                status(0, "", None, false)),
        (r#""status":"Success","code":200"#,                                                                               None),
        (r#""kind":"Secret""#,                                                                                             None),
    ];
    for (members, want) in rows {
        assert_eq!(
            error_status(format!(r#"{{"kind":"Status","apiVersion":"v1",{members}}}"#).as_bytes()),
            want,
            "{members}"
        );
    }
    for raw in
        ["", "no", "{}", r#"{"kind":"Secret","apiVersion":"v1","code":500}"#, r#"{"kind":"Status","apiVersion":"v2"}"#]
    {
        assert_eq!(error_status(raw.as_bytes()), None, "{raw}");
    }
}

/// A value as somebody may spell it.
fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,4})?",
        "\"([ -!#-\\[\\]-~äß☃𝄞]|\\\\[\"\\\\/bfnrt]|\\\\u[0-9a-fA-F]{4}){0,12}\"",
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let space = "[ \n\r\t]{0,2}";
        prop_oneof![
            (proptest::collection::vec(inner.clone(), 0..4), space)
                .prop_map(|(items, space)| format!("[{space}{}]", items.join(&format!("{space},")))),
            (proptest::collection::vec(("\"[a-z]{0,2}\"", inner), 0..4), space).prop_map(|(members, space)| {
                let members: Vec<_> = members.iter().map(|(name, value)| format!("{name}{space}:{value}")).collect();
                format!("{{{}{space}}}", members.join(","))
            }),
        ]
    })
}

/// Members with names of their own, one of them spelled with an escape, in any order among `fixed`.
fn members(fixed: Vec<(String, String)>) -> impl Strategy<Value = Vec<(String, String)>> {
    proptest::collection::vec(value(), 0..4).prop_flat_map(move |values| {
        let free = values
            .into_iter()
            .enumerate()
            .map(|(n, value)| (if n == 0 { r#""\u0058""#.to_owned() } else { format!("\"x{n}\"") }, value));
        Just(free.chain(fixed.clone()).collect::<Vec<_>>()).prop_shuffle()
    })
}

fn joined(members: &[(String, String)]) -> String {
    let members: Vec<_> = members.iter().map(|(name, value)| format!("{name}:{value}")).collect();
    format!("{{{}}}", members.join(","))
}

fn named(members: &[(&str, &str)]) -> Vec<(String, String)> {
    members.iter().map(|(name, value)| (format!("\"{name}\""), (*value).to_owned())).collect()
}

proptest! {
    #[test]
    fn every_byte_survives(
        metadata in members(named(&[
            ("name", "\"s\""), ("namespace", "\"d\""), ("uid", "\"u\""), ("resourceVersion", "\"1\""),
            ("managedFields", "[{\"f:a\":{}}]"),
        ])),
        top in members(named(&[("apiVersion", "\"v1\""), ("kind", "\"Secret\""), ("metadata", "")])),
    ) {
        let with = |metadata: String| {
            let mut top = top.clone();
            top.iter_mut().find(|(name, _)| name == "\"metadata\"").unwrap().1 = metadata;
            joined(&top)
        };
        let sent = with(joined(&metadata));
        let mut kept = metadata.clone();
        kept.retain(|(name, _)| name != "\"managedFields\"");
        let want = with(joined(&kept));
        prop_assert_eq!(body_of(&sent, Kind::Secret), want.clone());
        // Once more, from a list.
        let list = format!(r#"{{"kind":"SecretList","apiVersion":"v1","metadata":{{"resourceVersion":"9"}},"items":[{sent}]}}"#);
        let listing = listing(list.as_bytes(), Kind::Secret).unwrap();
        prop_assert_eq!(listing.objects[0].body.expose(), want.as_bytes());
    }

    #[test]
    fn hostile_bytes_are_refused_and_never_panic(
        sent in prop_oneof![value().prop_map(String::into_bytes), proptest::collection::vec(any::<u8>(), 0..40)],
        at in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let frame = r#"{"kind":"SecretList","apiVersion":"v1","metadata":{"resourceVersion":"9"},"items":[{"metadata":{"name":"s","namespace":"d","uid":"u","resourceVersion":"1"}}]}"#;
        let mut broken = frame.as_bytes().to_vec();
        let at = at.index(broken.len());
        broken[at] = byte;
        let mut cut = frame.as_bytes()[..at].to_vec();
        cut.extend_from_slice(&sent);
        for raw in [&sent, &broken, &cut] {
            prop_assert!(object(raw, Kind::Secret).is_err());
            let _ = listing(raw, Kind::Secret);
            let _ = error_status(raw);
        }
    }
}
