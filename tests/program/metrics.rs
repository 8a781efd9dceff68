//! What a running agent says over HTTP, to whom, and what it does where it can't.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use ckpt_db::checkpoint::object::Kind;
use rustix::process::Signal;

use crate::agent::at_once;
use crate::common::program::program;
use crate::fake::Match;
use crate::scene::{OFF, Scene};

/// An address that nobody has, for a moment at least.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn at(address: SocketAddr) -> String {
    format!("--metrics-bind-address={address}")
}

/// What is answered; `None` while nobody does.
fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    // Whoever is connected and never answered has failed.
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// The page as samples, by name with labels.
fn samples(address: SocketAddr) -> BTreeMap<String, f64> {
    let Some((200, page)) = get(address, "/metrics") else { return BTreeMap::new() };
    let lines = page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    lines.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

#[test]
fn what_an_agent_says_of_itself() {
    let scene = Scene::new();
    scene.pod("shop", "web");
    let address = free();
    let options: Vec<String> = [&at(address)].into_iter().map(String::from).chain(OFF.map(String::from)).collect();
    let mut agent = scene.start(&options);
    agent.in_step(3);
    at_once("a round that is in step", || samples(address).get("ckpt_db_in_step") == Some(&1.0));
    let seen = samples(address);
    let value = |name: &str| seen.get(name).copied().unwrap_or_else(|| panic!("no {name} in {seen:#?}"));
    #[rustfmt::skip]
    let exactly = [
        (r#"ckpt_db_store_objects{kind="Pod"}"#,                              1.0),
        (r#"ckpt_db_store_objects{kind="Secret"}"#,                           1.0),
        (r#"ckpt_db_store_objects{kind="ConfigMap"}"#,                        1.0),
        ("ckpt_db_store_populated",                                           1.0),
        ("ckpt_db_store_writable",                                            1.0),
        (r#"ckpt_db_store_lock_state{state="Open"}"#,                         1.0),
        (r#"ckpt_db_key_slots{kind="node-key"}"#,                             1.0),
        (r#"ckpt_db_api_server_state{state="Answering"}"#,                    1.0),
        ("ckpt_db_api_server_silence_seconds",                                0.0),
        ("ckpt_db_last_complete_sync_age_seconds",                            0.0),
        (r#"kubernetes_feature_enabled{name="Checkpointing",stage="ALPHA"}"#, 1.0),
        (r#"kubernetes_healthcheck{name="store",type="readyz"}"#,             1.0),
        (r#"ckpt_db_activation_policy{policy="off"}"#,                        1.0),
        ("ckpt_db_commit_failures_total",                                     0.0),
    ];
    for (name, want) in exactly {
        assert_eq!(value(name), want, "{name}");
    }
    for some in [
        "ckpt_db_cold_start_seconds",
        "ckpt_db_commit_duration_seconds_count",
        "ckpt_db_commit_changes_sum",
        "ckpt_db_commit_written_bytes_total",
        "ckpt_db_listings_total",
        "ckpt_db_rounds_total",
        "ckpt_db_store_file_bytes",
        "ckpt_db_store_filesystem_available_bytes",
        "ckpt_db_store_revision",
        "process_resident_memory_bytes",
    ] {
        assert!(value(some) > 0.0, "{some}");
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!(value("ckpt_db_client_certificate_expiration_timestamp_seconds") > now);
    assert!((now - value("process_start_time_seconds")).abs() < 300.0);
    let (status, text) = get(address, "/readyz?verbose").unwrap();
    let ready = "[+]ping ok\n[+]rounds ok\n[+]store ok\n[+]secrets ok\n[+]populated ok\nreadyz check passed\n";
    assert_eq!((status, text.as_str()), (200, ready));
    let page = get(address, "/metrics").unwrap().1;
    assert!(!page.contains("shop") && !page.contains("secret of") && !page.contains("config of"), "{page}");

    // Watches that are cut, and an object that is stored.
    let cut = r#"ckpt_db_watch_restarts_total{kind="Secret",reason="cut"}"#;
    assert_eq!(value(cut), 0.0);
    assert_eq!(scene.server.end_watches(&Match::watch(Kind::Secret)), 1);
    at_once("a watch that is begun anew", || samples(address)[cut] == 1.0);
    scene.pod("shop", "api");
    agent.stored(3, 0);
    at_once("two pods", || samples(address)[r#"ckpt_db_store_objects{kind="Pod"}"#] == 2.0);

    // The API server goes: that is no reason not to be ready.
    scene.server.stop();
    agent.until("warning: API server: silent");
    at_once("silence", || samples(address)[r#"ckpt_db_api_server_state{state="Silent"}"#] == 1.0);
    at_once("its age", || samples(address)["ckpt_db_api_server_silence_seconds"] > 0.0);
    at_once("the age of the last sync", || samples(address)["ckpt_db_last_complete_sync_age_seconds"] > 0.0);
    assert_eq!((samples(address)["ckpt_db_in_step"], get(address, "/readyz").unwrap().0), (0.0, 200));
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    assert!(get(address, "/livez").is_none());
}

/// With a runtime that can't be asked no copy is started: it lives, and is not ready.
#[test]
fn an_agent_that_could_bring_nothing_back_is_not_ready() {
    let scene = Scene::new();
    let address = free();
    let mut agent = scene.start(&[at(address)]);
    agent.until("in step");
    at_once("the checks", || get(address, "/readyz").is_some_and(|(_, text)| !text.contains("[-]populated")));
    let (status, text) = get(address, "/readyz").unwrap();
    assert!(status == 500 && text.contains("[-]container-runtime failed: "), "{text}");
    assert_eq!(get(address, "/livez"), Some((200, "ok".to_owned())));
}

#[test]
fn a_taken_port_keeps_nobody_from_working() {
    let scene = Scene::new();
    scene.pod("shop", "web");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut agent = scene.start(&[at(taken.local_addr().unwrap())]);
    agent.in_step(3);
    agent.says("warning: metrics and health are not served: cannot listen at ");
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
}

#[test]
fn whoever_else_could_ask_is_not_answered_unless_that_is_meant() {
    let scene = Scene::new();
    scene.pod("shop", "web");
    let output = scene.command(&["--metrics-bind-address=localhost:10271"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{stderr}");
    assert!(stderr.contains("is no address such as 127.0.0.1:10271"), "{stderr}");
    // No node stays dark for it: all else is done.
    let port = free().port();
    for address in [SocketAddr::from(([0, 0, 0, 0], port)), SocketAddr::from(([0; 16], port))] {
        let mut agent = scene.start(&[at(address)]);
        agent.until("in step");
        let said = format!(
            "error: metrics and health are not served, and all else goes on: {address} can be reached from other"
        );
        agent.says(&said);
        assert!(get(SocketAddr::from(([127, 0, 0, 1], port)), "/livez").is_none());
        assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    }
    // As meant, on an address of all interfaces.
    let address = SocketAddr::from(([0, 0, 0, 0], free().port()));
    let mut agent = scene.start(&[at(address), "--expose-metrics-without-authentication".to_owned()]);
    agent.until("in step");
    let near = SocketAddr::from(([127, 0, 0, 1], address.port()));
    at_once("an answer", || get(near, "/livez").is_some_and(|(status, _)| status == 200));
}

/// It says so, and has nothing else to be ready for.
#[test]
fn with_the_gate_off_there_is_little_to_tell() {
    let scene = Scene::new();
    scene.pod("shop", "web");
    let address = free();
    let mut command = program();
    command.arg("run").arg("--root").arg(scene.node.root()).arg(at(address));
    let mut agent = scene.start_command(command);
    agent.in_step(3);
    at_once("a round that is in step", || samples(address).get("ckpt_db_in_step") == Some(&1.0));
    let seen = samples(address);
    assert_eq!(seen[r#"kubernetes_feature_enabled{name="Checkpointing",stage="ALPHA"}"#], 0.0);
    assert!(!seen.contains_key("ckpt_db_store_file_bytes"));
    assert_eq!(get(address, "/readyz?verbose").unwrap().1, "[+]ping ok\n[+]rounds ok\nreadyz check passed\n");
}
