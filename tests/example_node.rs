//! The example node stays what its files say: real API objects, and one pod for each kind of answer.

use std::collections::BTreeMap;
use std::io;

use serde_json::Value;

use ckpt_db::checkpoint::closure;
use ckpt_db::checkpoint::decide::{PodNetwork, decide};
use ckpt_db::checkpoint::examine::{Parent, examine};
use ckpt_db::checkpoint::images::NodeImages;
use ckpt_db::checkpoint::judge::has_run;
use ckpt_db::checkpoint::lookup::{Lookup, Objects};
use ckpt_db::checkpoint::object::{Kind, Object, ObjectKey};
use ckpt_db::checkpoint::rendering::Activity;
use ckpt_db::checkpoint::settings::{KubeletVersion, Settings};
use ckpt_db::checkpoint::verdict::Verdict;
use ckpt_db::source::manifests::{Input, bound_to, node_name_of, read};

struct Example(BTreeMap<ObjectKey, Object>);

impl Objects for Example {
    fn get(&self, key: &ObjectKey) -> Lookup {
        self.0.get(key).cloned().map_or(Lookup::Missing, Lookup::Found)
    }
}

fn example() -> Example {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/node");
    let loaded = read(&Input::Path(directory.into()), &mut io::empty()).expect("the example is there");
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!(node_name_of(&loaded.objects).as_deref(), Some("edge-1"));
    Example(loaded.objects.into_iter().map(|object| (object.key.clone(), object)).collect())
}

impl Example {
    fn all(&self, kind: Kind) -> Vec<Object> {
        self.0.values().filter(|object| object.key.kind() == kind).cloned().collect()
    }
}

#[test]
fn one_pod_for_each_kind_of_answer() {
    let example = example();
    let settings = Settings {
        node_name: "edge-1".to_owned(),
        kubelet_version: Some(KubeletVersion { major: 1, minor: 34 }),
        ..Settings::default()
    };
    let services = example.all(Kind::Service);
    let (ours, others): (Vec<_>, Vec<_>) =
        example.all(Kind::Pod).into_iter().partition(|pod| bound_to(pod).as_deref() == Some("edge-1"));
    assert_eq!(others.iter().map(|pod| pod.key.name()).collect::<Vec<_>>(), ["storefront-7d9c8b6f5d-v5bnc"]);
    let examined = ours
        .iter()
        .map(|pod| {
            let parent = Parent { object: pod, ran: has_run(pod), ended: false, authenticated: true, republished: 0 };
            examine(parent, &example, &services, &settings, &NodeImages::unknown())
        })
        .collect();
    let decision = decide(examined, PodNetwork::Yes);

    let mut shown = Vec::new();
    for (pod, _, verdict) in &decision.verdicts {
        let planned = decision.plan.pods.iter().find(|planned| planned.rendering.pod == *pod);
        let activity = match planned.map(|planned| planned.activity) {
            Some(Activity::Active) => "active",
            Some(Activity::Prepared) => "prepared",
            Some(Activity::AsItIs) => "as it is",
            None => "not rendered",
        };
        let codes: Vec<_> = match verdict {
            Verdict::Recoverable { notes } | Verdict::WhenNetworkIs { notes } => {
                notes.iter().map(|note| note.code()).collect()
            }
            Verdict::NotRecoverable { reasons } => reasons.iter().map(|reason| reason.code()).collect(),
            Verdict::NotMeant(reason) => vec![reason.code()],
        };
        shown.push(format!("{pod} {activity}: {}", codes.join(" ")));
    }
    assert_eq!(
        shown,
        [
            "ingress-nginx/ingress-nginx-controller-5hjlb active: LabelsDropped TokenOmitted YieldFirst",
            "kube-system/kube-apiserver-m4xzt active: LabelsDropped",
            "shop/catalog-import-29540160-zk7d4 not rendered: Finished",
            "shop/ledger-858c9f7bdb-w6rft not rendered: Volume",
            "shop/nightly-report-5f6c7d8b9-2mlgp not rendered: OptedOut",
            "shop/orders-api-6b5f4d7c98-tn2vw active: LabelsDropped TokenOmitted TokenOmitted ClearEnv",
            "shop/sessions-0 prepared: LabelsDropped TokenOmitted YieldFirst StatefulSetNotActivated",
            "shop/storefront-7d9c8b6f5d-q8xkz active: LabelsDropped TokenOmitted",
        ]
    );
    assert_eq!(decision.plan.pods[0].rendering.pod.name, "kube-apiserver-m4xzt", "the API server comes first");
}

#[test]
fn every_config_map_and_secret_is_named_by_a_pod() {
    let example = example();
    let named: Vec<_> = example
        .all(Kind::Pod)
        .iter()
        .flat_map(|pod| closure::references(pod).unwrap())
        .map(|reference| reference.key)
        .collect();
    for object in example.all(Kind::ConfigMap).iter().chain(&example.all(Kind::Secret)) {
        assert!(named.contains(&object.key), "{}", object.key);
    }
}

/// What Kubernetes 1.34 puts into every pod that was created through its API and runs.
#[test]
fn pods_have_all_that_the_api_server_adds() {
    #[rustfmt::skip]
    let fields = [
        "/metadata/creationTimestamp", "/metadata/generateName", "/metadata/generation",
        "/metadata/ownerReferences/0/uid", "/metadata/resourceVersion", "/metadata/uid",
        "/spec/containers/0/imagePullPolicy", "/spec/containers/0/resources",
        "/spec/containers/0/terminationMessagePath", "/spec/containers/0/terminationMessagePolicy",
        "/spec/dnsPolicy", "/spec/enableServiceLinks", "/spec/nodeName", "/spec/preemptionPolicy", "/spec/priority",
        "/spec/restartPolicy", "/spec/schedulerName", "/spec/securityContext", "/spec/serviceAccount",
        "/spec/serviceAccountName", "/spec/terminationGracePeriodSeconds", "/spec/tolerations/0/key",
        "/status/conditions/4/lastTransitionTime", "/status/containerStatuses/0/containerID",
        "/status/containerStatuses/0/imageID", "/status/containerStatuses/0/state", "/status/hostIP",
        "/status/hostIPs/0/ip", "/status/phase", "/status/podIP", "/status/podIPs/0/ip", "/status/qosClass",
        "/status/startTime",
    ];
    let example = example();
    for pod in example.all(Kind::Pod) {
        let body: Value = serde_json::from_slice(pod.body.expose()).unwrap();
        for field in fields {
            assert!(body.pointer(field).is_some_and(|value| !value.is_null()), "{} {field}", pod.key);
        }
        serde_json::from_value::<k8s_openapi::api::core::v1::Pod>(body).unwrap();
    }
    for object in example.0.values() {
        assert!(!object.uid.is_empty() && !object.resource_version.is_empty(), "{}", object.key);
    }
}
