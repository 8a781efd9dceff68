//! What this control plane does, as far as the agent relies on it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};

use crate::api::{Api, Watch, collection, listed, one, pods_of};
use crate::control_plane::{Cluster, Options, node_user};
use crate::workload::Workload;
use crate::{truth, until};

const NODE: &str = "edge-1";

fn object(kind: &str, name: &str, value: &str) -> Value {
    let field = if kind == "Secret" { "stringData" } else { "data" };
    json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, field: {"a": value}})
}

fn pod(name: &str, node: &str, secrets: &[&str]) -> Value {
    let from: Vec<Value> = secrets.iter().map(|name| json!({"secretRef": {"name": name}})).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i", "envFrom": from}]},
    })
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

#[test]
fn explore() {
    let start = Instant::now();
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    eprintln!("start: {:?}", start.elapsed());
    let admin = cluster.admin();
    let directory = tempfile::tempdir().unwrap();
    let node = Api::new(&cluster.kubeconfig(NODE, directory.path()));
    let role = Api::new(&cluster.role_kubeconfig("predecessor", &directory.path().join("role")));
    let secrets = collection("secrets", "default");
    for name in ["named", "unnamed"] {
        admin.create(&secrets, &object("Secret", name, "1")).ok();
    }
    admin.create(&collection("pods", "default"), &pod("web", NODE, &["named", "missing"])).ok();
    let s = |name: &str| one("secrets", "default", name);
    let l = |name: &str| listed("secrets", "default", name);
    let show = |who: &str, api: &Api, path: &str| {
        let a = api.get(path);
        eprintln!(
            "{who} GET {path}: {} items {:?} rv {} | {}",
            a.status,
            a.body["items"].as_array().map(Vec::len),
            a.body["metadata"]["resourceVersion"],
            a.message()
        );
    };
    for (who, api) in [("node", &node), ("role", &role)] {
        for path in [
            s("named"),
            s("unnamed"),
            s("missing"),
            s("neither"),
            l("named"),
            l("missing"),
            l("unnamed"),
            secrets.clone(),
            pods_of(NODE),
            "/api/v1/pods".into(),
            pods_of("edge-2"),
            "/api/v1/namespaces/default/pods?fieldSelector=metadata.name%3Dweb,spec.nodeName%3Dedge-1".into(),
            "/api/v1/namespaces/default/pods/web".into(),
            "/api/v1/nodes/edge-1".into(),
            "/api/v1/nodes/edge-2".into(),
            "/api/v1/nodes?fieldSelector=metadata.name%3Dedge-1".into(),
            "/api/v1/services".into(),
        ] {
            show(who, api, &path);
        }
        for path in [l("named"), l("missing"), l("unnamed")] {
            match api.watch(&path) {
                Ok(w) => eprintln!("{who} WATCH {path}: {}", w.next(Duration::from_millis(500)).shown()),
                Err(a) => eprintln!("{who} WATCH {path}: {} {}", a.status, a.message()),
            }
        }
    }
    let rv = version(&node.get(&l("named")).ok());
    let open = node.watch(&format!("{}&resourceVersion={rv}&allowWatchBookmarks=true", l("named"))).unwrap();
    admin.delete(&one("pods", "default", "web")).ok();
    std::thread::sleep(Duration::from_millis(300));
    show("after delete", &node, &s("named"));
    show("after delete", &node, &l("named"));
    show("after delete", &node, "/api/v1/namespaces/default/pods/web");
    show(
        "after delete",
        &node,
        "/api/v1/namespaces/default/pods?fieldSelector=metadata.name%3Dweb,spec.nodeName%3Dedge-1",
    );
    admin.replace(&s("named"), &object("Secret", "named", "2")).ok();
    eprintln!("open watch after rights are gone: {}", open.next(Duration::from_secs(2)).shown());

    // restart
    admin.create(&collection("pods", "default"), &pod("web", NODE, &["named", "missing"])).ok();
    for n in 0..5 {
        admin.replace(&s("named"), &object("Secret", "named", &n.to_string())).ok();
    }
    until("rights", Duration::from_secs(5), || {
        let a = node.get(&l("named"));
        if a.status == 200 { Ok(()) } else { Err(a.message().into()) }
    });
    let now = version(&node.get(&l("named")).ok());
    let pods_rv = version(&node.get(&pods_of(NODE)).ok());
    eprintln!("rv now {now} pods {pods_rv}");
    let open = node.watch(&format!("{}&resourceVersion={now}", l("named"))).unwrap();
    let start = Instant::now();
    cluster.kill_apiserver();
    eprintln!("watch at kill: {}", open.next(Duration::from_secs(2)).shown());
    cluster.launch_apiserver();
    let mut seen: BTreeMap<String, (u128, u128, usize)> = BTreeMap::new();
    let hammer = Instant::now();
    loop {
        for (what, path) in [
            ("get", s("named")),
            ("list", l("named")),
            ("pods", pods_of(NODE)),
            ("pods0", format!("{}&resourceVersion=0", pods_of(NODE))),
            ("svc", "/api/v1/services".into()),
            ("ready", "/readyz".into()),
        ] {
            let (api, path) = if what == "ready" { (admin, path) } else { (&node, path) };
            let out = match api.send(Method::GET, &path, None) {
                Ok(a) => {
                    format!("{what} {} {} items {:?}", a.status, a.message(), a.body["items"].as_array().map(Vec::len))
                }
                Err(e) => format!("{what} error {}", e.chars().take(60).collect::<String>()),
            };
            let at = hammer.elapsed().as_millis();
            let e = seen.entry(out).or_insert((at, at, 0));
            e.1 = at;
            e.2 += 1;
        }
        if hammer.elapsed() > Duration::from_secs(8) {
            break;
        }
    }
    for (what, (a, b, n)) in &seen {
        eprintln!("hammer {a:>5}..{b:>5} ms {n:>5}x {what}");
    }
    cluster.wait_ready();
    eprintln!("restart: {:?}", start.elapsed());
    let watch_at = |api: &Api, path: &str, rv: u64| -> String {
        match api.watch(&format!("{path}&resourceVersion={rv}&allowWatchBookmarks=true")) {
            Ok(w) => drain(&w),
            Err(a) => format!("{} {}", a.status, a.message()),
        }
    };
    for rv in [1, now - 4, now - 1, now, now + 1, now + 1000] {
        eprintln!("after restart: watch secret at {rv}: {}", watch_at(&node, &l("named"), rv));
        eprintln!("after restart: watch pods   at {rv}: {}", watch_at(&node, &pods_of(NODE), rv));
    }
    let t = Instant::now();
    show("after restart", &node, &format!("{}&resourceVersion={}", l("named"), now + 1000));
    eprintln!("took {:?}", t.elapsed());
    show("after restart", &node, &format!("{}&resourceVersion={}&resourceVersionMatch=Exact", l("named"), now + 1000));
    show("after restart", &node, &format!("{}&resourceVersion={}", l("named"), 1));

    // restore
    let start = Instant::now();
    let snapshot = cluster.snapshot_etcd();
    eprintln!("snapshot: {:?}", start.elapsed());
    for n in 0..50 {
        admin.replace(&s("named"), &object("Secret", "named", &format!("late {n}"))).ok();
    }
    let late = version(&node.get(&l("named")).ok());
    let start = Instant::now();
    cluster.restore_etcd(&snapshot);
    eprintln!("restore: {:?}", start.elapsed());
    let back = version(&node.get(&l("named")).ok());
    eprintln!("late {late} back {back}");
    let w = node.watch(&format!("{}&resourceVersion={late}&allowWatchBookmarks=true", l("named"))).unwrap();
    let wp = node.watch(&format!("{}&resourceVersion={late}&allowWatchBookmarks=true", pods_of(NODE))).unwrap();
    for n in 0..10 {
        admin.replace(&s("named"), &object("Secret", "named", &format!("again {n}"))).ok();
    }
    admin.patch(&one("pods", "default", "web"), &json!({"metadata": {"annotations": {"a": "b"}}})).ok();
    eprintln!("watch secret from the future: {}", drain(&w));
    eprintln!("watch pods from the future: {}", drain(&wp));
    let t = Instant::now();
    show("future", &node, &format!("{}&resourceVersion={late}", pods_of(NODE)));
    eprintln!("took {:?}", t.elapsed());
    for n in 0..60 {
        admin.replace(&s("named"), &object("Secret", "named", &format!("more {n}"))).ok();
    }
    eprintln!("then secret: {}", drain(&w));
    let t = Instant::now();
    let w2 = node
        .watch(&format!(
            "{}&resourceVersion={}&allowWatchBookmarks=true&timeoutSeconds=75",
            pods_of(NODE),
            late + 10000
        ))
        .unwrap();
    let w3 = node
        .watch(&format!("{}&resourceVersion={}&allowWatchBookmarks=true&timeoutSeconds=75", pods_of(NODE), back))
        .unwrap();
    for _ in 0..4 {
        let n = w3.next(Duration::from_secs(90));
        eprintln!("bookmarks present: {} {:?}", n.shown(), t.elapsed());
        if n.shown() == "ended" {
            break;
        }
    }
    for _ in 0..4 {
        let n = w2.next(Duration::from_secs(90));
        eprintln!("bookmarks future: {} {:?}", n.shown(), t.elapsed());
        if n.shown() == "ended" {
            break;
        }
    }
    std::thread::sleep(Duration::from_millis(300));
    let audit = cluster.audit();
    eprintln!("{:?}", audit.of(&node_user(NODE)).counts());
    eprintln!("{:?}", audit.of(&node_user(NODE)).statuses());
    for line in audit.of(&node_user(NODE)).bad_manners(NODE) {
        eprintln!("BAD {line}");
    }
    for r in audit.requests.iter().take(3) {
        eprintln!("{r:?}");
    }
}

fn drain(watch: &Watch) -> String {
    let mut all = Vec::new();
    loop {
        let next = watch.next(Duration::from_millis(700)).shown();
        let done = next == "quiet" || next == "ended";
        all.push(next);
        if done || all.len() > 12 {
            return all.join(", ");
        }
    }
}

#[test]
fn steps() {
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    let mut workload = Workload::new(7, NODE, 20);
    workload.prepare(cluster.admin());
    let start = Instant::now();
    for n in 0..400 {
        if n % 150 == 149 {
            cluster.kill_apiserver();
            cluster.launch_apiserver();
        }
        let what = workload.step(cluster.admin());
        if n < 20 {
            eprintln!("{what}");
        }
    }
    eprintln!("400 steps: {:?}; {} pods, {} named", start.elapsed(), workload.pods(), workload.named().len());
    let t = Instant::now();
    let truth = truth::read(cluster.admin(), NODE);
    eprintln!("truth: {} objects in {:?}", truth.len(), t.elapsed());
}
