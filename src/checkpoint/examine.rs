//! Would this pod come back offline, and as what? Judgement and translation of one stored pod joined.

use std::collections::BTreeSet;

use super::images::NodeImages;
use super::judge;
use super::lookup::Objects;
use super::object::Object;
use super::own_pod;
use super::pod::ParentPod;
use super::rendering::{PodName, Rendering};
use super::settings::{ActivationPolicy, Settings};
use super::translate::{self, HostPort, Translation};
use super::verdict::{Note, Reason, Verdict};

/// A stored pod as the core sees it.
#[derive(Clone, Copy, Debug)]
pub struct Parent<'a> {
    /// The pod.
    pub object: &'a Object,
    /// Whether it ever ran on this node (kept by the store; [`judge::has_run`] reads it from a status).
    pub ran: bool,
    /// Whether it is on record that it ended here (kept by the store; [`judge::outcome`] reads it from a status).
    pub ended: bool,
    /// Whether a key vouches for its record, and not only a digest.
    pub authenticated: bool,
    /// How often its copy was published anew because it did not run; 0 leaves no trace in the manifest.
    pub republished: u32,
}

/// The answer for one pod, before it is weighed against the other pods and the node ([`super::decide::decide`]).
#[derive(Clone)]
pub struct Examined {
    /// The parent.
    pub pod: PodName,
    /// Its UID; empty where it has none.
    pub uid: String,
    /// The answer.
    pub verdict: Verdict,
    /// Manifest and trees; there if and only if the pod is recoverable and the policy is not [`ActivationPolicy::Off`].
    pub rendering: Option<Rendering>,
    /// `spec.priority`, 0 if unknown.
    pub priority: i64,
    /// Whether the operator asked for it by annotation.
    pub annotated: bool,
    /// Whether its priority makes it critical to the system.
    pub system_critical: bool,
    /// Whether it is to be put into the kubelet's directory, and not prepared only.
    pub activate: bool,
    /// Whether it competes for its host ports: it is to be activated, or would be if the policy were not
    /// [`ActivationPolicy::Off`].
    pub contends: bool,
    /// The node's ports that it takes.
    pub host_ports: Vec<HostPort>,
    /// Whether it works without the pod network.
    pub host_network: bool,
    /// Whether the copy must go before its parent comes back.
    pub yield_first: bool,
    /// The names of its containers, init containers aside.
    pub containers: Vec<String>,
    /// If it is ready by its status: the containers (`containerID`, without the runtime's name) that are.
    pub ready: Option<BTreeSet<String>>,
}

/// Examines one stored pod.
///
/// Under [`ActivationPolicy::Off`] the verdict is that of [`ActivationPolicy::All`], so that a fleet that only watches
/// still learns what would come back; but nothing is rendered and nothing activated.
///
/// What is not known of the node's images says nothing against the pod.
///
/// A pod that is not meant to come back is not translated: its verdict says so and nothing else.
#[must_use]
pub fn examine(
    parent: Parent<'_>,
    objects: &dyn Objects,
    services: &[Object],
    settings: &Settings,
    images: &NodeImages,
) -> Examined {
    let object = parent.object;
    let name = PodName { namespace: object.key.namespace().to_owned(), name: object.key.name().to_owned() };
    let mut examined = Examined {
        pod: name,
        uid: object.uid.clone(),
        verdict: Verdict::NotRecoverable { reasons: Vec::new() },
        rendering: None,
        priority: 0,
        annotated: false,
        system_critical: false,
        activate: false,
        contends: false,
        host_ports: Vec::new(),
        host_network: false,
        yield_first: false,
        containers: Vec::new(),
        ready: None,
    };
    let pod = match ParentPod::parse(object) {
        Ok(pod) => pod,
        Err(error) => {
            let reasons = vec![Reason::Malformed(error.problem.to_string())];
            examined.verdict = Verdict::NotRecoverable { reasons };
            return examined;
        }
    };
    examined.uid.clone_from(&pod.uid);
    examined.priority = judge::priority(&pod);
    examined.annotated = pod.annotated();
    examined.system_critical = judge::is_system_critical(&pod);
    examined.host_ports = translate::host_ports(&pod);
    examined.host_network = pod.host_network();
    examined.yield_first = judge::yields_first(&pod);
    examined.containers = judge::container_names(&pod);
    examined.ready = judge::ready_containers(&pod);

    if let Some(reason) = judge::not_meant(&pod, parent.ended) {
        examined.verdict = Verdict::NotMeant(reason);
        return examined;
    }
    let mut reasons = Vec::new();
    if !parent.ran {
        reasons.push(Reason::NeverRan);
    }
    if !parent.authenticated && settings.require_authentication {
        reasons.push(Reason::Unauthenticated);
    }
    let translated = translate::translate_parsed(&pod, objects, services, settings, parent.republished);
    let translation = translated.map_err(|more| reasons.extend(more)).ok();
    if settings.own_pod.as_ref() == Some(&examined.pod) {
        reasons.extend(own_pod::token_only(&pod, objects).map(|volume| Reason::OwnToken { volume }));
    }
    let judged = images.judge(&pod, settings.kubelet_version);
    reasons.extend(judged.reasons);
    let (Some(Translation { rendering, mut notes }), true) = (translation, reasons.is_empty()) else {
        examined.verdict = Verdict::NotRecoverable { reasons };
        return examined;
    };
    if judged.all_usable {
        // Whether the pull secrets matter is known, then, and they don't.
        notes.retain(|note| *note != Note::PullSecretsDropped);
    }

    examined.activate = true;
    if !parent.authenticated {
        notes.push(Note::Unauthenticated);
    }
    if examined.yield_first {
        notes.push(Note::YieldFirst);
    }
    if judge::is_of_stateful_set(&pod) && !examined.annotated {
        notes.push(Note::StatefulSetNotActivated);
        examined.activate = false;
    }
    let rendered = match settings.activation {
        ActivationPolicy::All => true,
        ActivationPolicy::Annotated => {
            if !examined.annotated {
                notes.push(Note::NotAnnotated);
                examined.activate = false;
            }
            true
        }
        ActivationPolicy::Off => false,
    };
    examined.contends = examined.activate;
    examined.activate &= rendered;
    notes.sort();
    examined.verdict = Verdict::Recoverable { notes };
    examined.rendering = rendered.then_some(rendering);
    examined
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::lookup::Lookup;
    use super::super::object::{Kind, ObjectKey};
    use super::super::verdict::NotMeant;
    use super::*;

    struct Nothing;

    impl Objects for Nothing {
        fn get(&self, _: &ObjectKey) -> Lookup {
            Lookup::Missing
        }
    }

    const YES: &str = "checkpointer.alpha.coreos.com/checkpoint";

    fn pod(metadata: Value, spec: Value) -> Object {
        let mut body = json!({"metadata": metadata, "spec": spec});
        if body["spec"].get("containers").is_none() {
            body["spec"]["containers"] = json!([{"name": "c", "image": "i:1"}]);
        }
        let key = ObjectKey::new(Kind::Pod, "default", "web").unwrap();
        Object { key, uid: "u-1".to_owned(), resource_version: String::new(), body: body.to_string().into() }
    }

    fn codes(verdict: &Verdict) -> Vec<&'static str> {
        match verdict {
            Verdict::Recoverable { notes } | Verdict::WhenNetworkIs { notes } => notes.iter().map(Note::code).collect(),
            Verdict::NotRecoverable { reasons } => reasons.iter().map(Reason::code).collect(),
            Verdict::NotMeant(reason) => vec![reason.code()],
        }
    }

    /// What a pod's own state and the policy make of it: verdict, rendered, activated.
    #[test]
    fn state_and_policy() {
        use ActivationPolicy::{All, Annotated, Off};
        let plain = || pod(json!({}), json!({}));
        let asked = || pod(json!({"annotations": {YES: "true"}}), json!({}));
        let owner = json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "s", "uid": "u"}]);
        let set = || pod(json!({"ownerReferences": owner}), json!({}));
        let asked_set = || pod(json!({"ownerReferences": owner, "annotations": {YES: "true"}}), json!({}));
        let once = || pod(json!({}), json!({"restartPolicy": "Never"}));
        type Row = (Object, ActivationPolicy, bool, bool, &'static [&'static str], bool, bool);
        #[rustfmt::skip]
        let rows: [Row; 12] = [
            // pod          policy     ran    authentic  codes                                                      rendered activated
            (plain(),       All,       true,  true,      &["NoServices"],                                           true,    true),
            (plain(),       Annotated, true,  true,      &["NoServices", "NotAnnotated"],                           true,    false),
            (plain(),       Off,       true,  true,      &["NoServices"],                                           false,   false),
            (asked(),       Annotated, true,  true,      &["NoServices"],                                           true,    true),
            (asked(),       Off,       true,  true,      &["NoServices"],                                           false,   false),
            (plain(),       All,       false, true,      &["NeverRan"],                                             false,   false),
            (plain(),       All,       true,  false,     &["Unauthenticated", "NoServices"],                        true,    true),
            (set(),         All,       true,  true,      &["YieldFirst", "NoServices", "StatefulSetNotActivated"],  true,    false),
            (asked_set(),   All,       true,  true,      &["YieldFirst", "NoServices"],                             true,    true),
            (once(),        All,       true,  true,      &["RunsOnce"],                                             false,   false),
            (once(),        Off,       false, true,      &["RunsOnce"],                                             false,   false),
            (pod(json!({}), json!({"containers": 1})), All, true, true, &["Malformed"],                             false,   false),
        ];
        for (object, activation, ran, authenticated, want, rendered, activated) in rows {
            let settings = Settings { activation, ..Settings::default() };
            let parent = Parent { object: &object, ran, ended: false, authenticated, republished: 0 };
            let examined = examine(parent, &Nothing, &[], &settings, &NodeImages::unknown());
            assert_eq!(codes(&examined.verdict), want, "{activation:?}");
            assert_eq!((examined.rendering.is_some(), examined.activate), (rendered, activated), "{want:?}");
        }
    }

    /// The record of an ending outlives the status that told of it: an API server restored to an older state shows the
    /// pod as running.
    #[test]
    fn what_is_on_record_as_ended_is_not_run_again() {
        let mut object = pod(json!({}), json!({}));
        object.body =
            json!({"spec": {"containers": [{"name": "c"}]}, "status": {"phase": "Running"}}).to_string().into();
        for (ended, want) in [(false, "NoServices"), (true, "Finished")] {
            let parent = Parent { object: &object, ran: true, ended, authenticated: true, republished: 0 };
            let examined = examine(parent, &Nothing, &[], &Settings::default(), &NodeImages::unknown());
            assert_eq!(codes(&examined.verdict), [want]);
            assert_eq!(examined.rendering.is_some(), !ended);
        }
    }

    #[test]
    fn all_reasons_are_collected() {
        let object = pod(
            json!({}),
            json!({"runtimeClassName": "gvisor",
                "volumes": [{"name": "a", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "b", "secret": {"secretName": "s"}}],
                "containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "m"}}], "resources": {"limits": {"nvidia.com/gpu": "1"}}}]}),
        );
        let settings = Settings { require_authentication: true, ..Settings::default() };
        let examined = examine(
            Parent { object: &object, ran: false, ended: false, authenticated: false, republished: 0 },
            &Nothing,
            &[],
            &settings,
            &NodeImages::unknown(),
        );
        #[rustfmt::skip]
        assert_eq!(
            codes(&examined.verdict),
            ["NeverRan", "Unauthenticated", "RuntimeClass", "Volume", "MissingObject", "MissingObject", "ExtendedResource"]
        );
    }

    /// Each number makes another manifest, and so another UID; none leaves it as it always was.
    #[test]
    fn what_is_published_anew_says_how_often() {
        let kept = Settings { kept_annotations: vec!["ckpt-db.io/".to_owned()], ..Settings::default() };
        let own_word = json!({"annotations": {"ckpt-db.io/republished": "9", "ckpt-db.io/x": "y"}});
        for (settings, metadata) in
            [(Settings::default(), json!({})), (Settings::default(), own_word.clone()), (kept, own_word)]
        {
            let object = pod(metadata, json!({}));
            let rendered = |republished| {
                let parent = Parent { object: &object, ran: true, ended: false, authenticated: true, republished };
                let examined = examine(parent, &Nothing, &[], &settings, &NodeImages::unknown());
                examined.rendering.unwrap().manifest.json.expose().to_vec()
            };
            let said = |manifest: &[u8]| {
                let manifest: Value = serde_json::from_slice(manifest).unwrap();
                manifest["metadata"]["annotations"].get("ckpt-db.io/republished").cloned()
            };
            let plain = translate::translate(&object, &Nothing, &[], &settings).unwrap().rendering.manifest.json;
            assert_eq!(rendered(0), plain.expose());
            for (republished, want) in [(0, None), (1, Some("1")), (2, Some("2")), (u32::MAX, Some("4294967295"))] {
                let manifest = rendered(republished);
                assert_eq!(said(&manifest), want.map(Value::from));
                assert_eq!(manifest, rendered(republished), "the same number, the same bytes");
                // But for that line it is the same manifest.
                let mut without: Value = serde_json::from_slice(&manifest).unwrap();
                without["metadata"]["annotations"].as_object_mut().unwrap().remove("ckpt-db.io/republished");
                assert_eq!(without, serde_json::from_slice::<Value>(plain.expose()).unwrap());
            }
        }
    }

    /// What the node has of images, and what the agent's own pod has of credentials, against the same pods.
    #[test]
    fn images_and_own_credentials_reach_the_verdict() {
        use super::super::look::{Image, ImageVerification, PullRecord, PullRecords, PulledWith};
        use super::super::node::Fact::{Known, Unknown};
        use super::super::settings::KubeletVersion;
        let image = Image {
            id: "sha256:1".to_owned(),
            repo_tags: vec!["docker.io/library/i:1".to_owned()],
            ..Image::default()
        };
        let by_secret = PulledWith::Secrets(vec!["default/regcred".to_owned()]);
        let record = PullRecord {
            image_ref: image.id.clone(),
            by_image: [("docker.io/library/i".to_owned(), by_secret)].into(),
        };
        let records = Known(PullRecords { pulled: vec![record], ..PullRecords::default() });
        let none = Known(PullRecords::default());
        let policy = Known(ImageVerification::Pulled);
        let nobody = NodeImages::unknown();
        let absent = NodeImages::new(&Known(vec![]), &none, &policy);
        let usable = NodeImages::new(&Known(vec![image.clone()]), &none, &policy);
        let theirs = NodeImages::new(&Known(vec![image.clone()]), &records, &policy);
        let unsure = NodeImages::new(&Known(vec![image]), &Unknown("x".to_owned()), &policy);

        let plain = || json!({});
        let secrets = || json!({"imagePullSecrets": [{"name": "regcred"}]});
        let token = || {
            json!({
            "volumes": [{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}],
            "containers": [{"name": "c", "image": "i:1", "volumeMounts": [{"name": "t", "mountPath": "/t"}]}]})
        };
        let named = |name: &str| Some(PodName { namespace: "default".to_owned(), name: name.to_owned() });
        let (own, other) = (named("web"), named("other"));
        let (new, old) = (None, Some(KubeletVersion { major: 1, minor: 34 }));
        type Row<'a> = (Value, &'a NodeImages, &'a Option<PodName>, Option<KubeletVersion>, bool, &'a [&'a str], bool);
        #[rustfmt::skip]
        let rows: [Row<'_>; 16] = [
            // spec       images    own pod  kubelet  ran    codes                                           rendered
            (plain(),    &nobody,  &None,   new,     true,  &["NoServices"],                                true),
            (plain(),    &absent,  &None,   new,     true,  &["ImageAbsent"],                               false),
            (plain(),    &absent,  &None,   old,     true,  &["ImageAbsent"],                               false),
            (plain(),    &absent,  &None,   new,     false, &["NeverRan", "ImageAbsent"],                   false),
            (plain(),    &usable,  &None,   new,     true,  &["NoServices"],                                true),
            (plain(),    &theirs,  &None,   new,     true,  &["ImageCredentials"],                          false),
            (plain(),    &theirs,  &None,   old,     true,  &["NoServices"],                                true),
            (plain(),    &unsure,  &None,   new,     true,  &["NoServices"],                                true),
            // Whether the dropped pull secrets matter is said where it is not known.
            (secrets(),  &nobody,  &None,   new,     true,  &["PullSecretsDropped", "NoServices"],          true),
            (secrets(),  &unsure,  &None,   new,     true,  &["PullSecretsDropped", "NoServices"],          true),
            (secrets(),  &usable,  &None,   new,     true,  &["NoServices"],                                true),
            (secrets(),  &theirs,  &None,   new,     true,  &["ImageCredentials"],                          false),
            (token(),    &nobody,  &None,   new,     true,  &["TokenOmitted", "NoServices"],                true),
            (token(),    &nobody,  &other,  new,     true,  &["TokenOmitted", "NoServices"],                true),
            (token(),    &nobody,  &own,    new,     true,  &["OwnToken"],                                  false),
            (plain(),    &nobody,  &own,    new,     true,  &["NoServices"],                                true),
        ];
        for (spec, images, own_pod, kubelet_version, ran, want, rendered) in rows {
            let settings = Settings { own_pod: own_pod.clone(), kubelet_version, ..Settings::default() };
            let object = pod(json!({}), spec);
            let parent = Parent { object: &object, ran, ended: false, authenticated: true, republished: 0 };
            let examined = examine(parent, &Nothing, &[], &settings, images);
            assert_eq!(codes(&examined.verdict), want, "{images:?}");
            assert_eq!((examined.rendering.is_some(), examined.activate), (rendered, rendered), "{want:?}");
        }
    }

    #[test]
    fn a_copy_is_no_parent() {
        let object = pod(json!({}), json!({}));
        let settings = Settings::default();
        let parent = Parent { object: &object, ran: true, ended: false, authenticated: true, republished: 0 };
        let rendering = examine(parent, &Nothing, &[], &settings, &NodeImages::unknown()).rendering.unwrap();
        let copy = Object { body: rendering.manifest.json, ..object };
        let examined = examine(
            Parent { object: &copy, ran: true, ended: false, authenticated: true, republished: 0 },
            &Nothing,
            &[],
            &settings,
            &NodeImages::unknown(),
        );
        assert_eq!(examined.verdict, Verdict::NotMeant(NotMeant::NotAParent));
        assert!(examined.rendering.is_none());
    }
}
