//! Would the kubelet start a copy's containers from the images that are here, with no registry to ask?
//!
//! Two questions decide that. Is the image here: asked as the kubelet and the container runtime ask it, by its normalised
//! name. And, since Kubernetes 1.35 (`KubeletEnsureSecretPulledImages`), may any pod use it: an image that was pulled with
//! a pod's own credentials is pulled again for a pod that doesn't present them, and a static pod can't
//! (`pkg/kubelet/images/pullmanager`, `MustAttemptImagePull`).

mod reference;

use std::collections::{BTreeMap, BTreeSet};

use super::json::{items, text};
use super::look::{Image, ImageVerification, PullRecords, PulledWith};
use super::node::Fact;
use super::pod::ParentPod;
use super::settings::KubeletVersion;
use super::verdict::Reason;
use reference::{LIBRARY, Reference};

/// The first version whose kubelet asks for credentials of images that are here.
const VERIFIES_SINCE: KubeletVersion = KubeletVersion { major: 1, minor: 35 };

/// What is known of the images on this node.
///
/// What is not known says nothing against a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeImages {
    present: Option<Present>,
    records: Option<Records>,
    verification: Option<ImageVerification>,
}

/// The kubelet's records, as they are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Records {
    /// By the runtime's name for the image, then by the pods' name for it.
    pulled: BTreeMap<String, BTreeMap<String, PulledWith>>,
    /// Names of images that the kubelet has begun to pull.
    pulling: BTreeSet<String>,
    /// Whether all could be read.
    whole: bool,
}

/// How an image stands to a copy that needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is known, or the image's name can't be read.
    Unknown,
    /// The runtime doesn't have it.
    Absent,
    /// It is here; whether a copy may use it is not known.
    Present,
    /// It is here, and any pod may use it.
    Usable,
    /// It is here, and the kubelet would ask a copy for credentials: these, where they are on record.
    NeedsCredentials(Vec<String>),
}

/// What the images say about one pod.
pub(crate) struct Judged {
    /// Why it can't come back, if so.
    pub(crate) reasons: Vec<Reason>,
    /// Whether it is known of each of its images that a copy may use it.
    pub(crate) all_usable: bool,
}

impl NodeImages {
    /// Nothing is known of any image.
    #[must_use]
    pub fn unknown() -> Self {
        Self::default()
    }

    /// What the runtime has, what the kubelet recorded, and what it makes of that.
    #[must_use]
    pub fn new(
        present: &Fact<Vec<Image>>,
        records: &Fact<PullRecords>,
        verification: &Fact<ImageVerification>,
    ) -> Self {
        let looked_up = |records: &PullRecords| Records {
            pulled: records.pulled.iter().map(|one| (one.image_ref.clone(), one.by_image.clone())).collect(),
            pulling: records.pulling.iter().filter_map(|image| Some(Reference::parse(image)?.exact())).collect(),
            whole: records.unreadable.is_none(),
        };
        Self {
            present: known(present).map(|images| Present::of(images)),
            records: known(records).map(looked_up),
            verification: known(verification).cloned(),
        }
    }

    /// How `image`, as a pod spells it, stands to a copy. An unknown version of the kubelet counts as the newest.
    #[must_use]
    pub fn standing(&self, image: &str, kubelet: Option<KubeletVersion>) -> Standing {
        let (Some(present), Some(reference)) = (&self.present, Reference::parse(image)) else {
            return Standing::Unknown;
        };
        match present.find(&reference) {
            Found::Nothing => Standing::Absent,
            Found::One(_) if kubelet.is_some_and(|version| version < VERIFIES_SINCE) => Standing::Usable,
            Found::One(id) => self.permission(&reference, id),
            Found::Several => Standing::Present,
        }
    }

    /// Whether a copy may use the image `id`, which is here.
    fn permission(&self, reference: &Reference, id: &str) -> Standing {
        let all_asked_for = match &self.verification {
            None => return Standing::Present,
            Some(ImageVerification::Never) => return Standing::Usable,
            Some(ImageVerification::AllBut(listed)) if is_listed(listed, &reference.name()) => return Standing::Usable,
            Some(ImageVerification::AllBut(_) | ImageVerification::All) => true,
            Some(ImageVerification::Pulled) => false,
        };
        let Some(records) = &self.records else { return Standing::Present };
        let Some(by_image) = records.pulled.get(id) else {
            // A record that can't be read may be this one's; and what becomes of one that was begun depends on what the
            // kubelet finds when it starts.
            return match (records.whole && !records.pulling.contains(&reference.exact()), all_asked_for) {
                (false, _) => Standing::Present,
                (true, true) => Standing::NeedsCredentials(Vec::new()),
                (true, false) => Standing::Usable,
            };
        };
        let named = |kind: &str, names: &[String]| names.iter().map(|name| format!("{kind} {name}")).collect();
        match by_image.get(&reference.name()) {
            Some(PulledWith::Node) => Standing::Usable,
            Some(PulledWith::Secrets(secrets)) => Standing::NeedsCredentials(named("pull secret", secrets)),
            Some(PulledWith::ServiceAccounts(accounts)) => {
                Standing::NeedsCredentials(named("service account", accounts))
            }
            // Under this name no pod is known to have had the right to it.
            Some(PulledWith::Nothing) | None => Standing::NeedsCredentials(Vec::new()),
        }
    }

    /// What is known of all images that `pod` needs: those of its containers, init containers and image volumes.
    pub(crate) fn judge(&self, pod: &ParentPod, kubelet: Option<KubeletVersion>) -> Judged {
        let of_containers = pod.containers().filter_map(|(_, container)| text(container, "image"));
        let of_volumes = items(pod.spec(), "volumes")
            .iter()
            .filter_map(|volume| text(volume.get("image")?, "reference"))
            // An image volume without a reference is left to the kubelet.
            .filter(|reference| !reference.is_empty());
        let mut judged = Judged { reasons: Vec::new(), all_usable: true };
        for image in of_containers.chain(of_volumes) {
            let reason = match self.standing(image, kubelet) {
                Standing::Usable => continue,
                Standing::Unknown | Standing::Present => None,
                Standing::Absent => Some(Reason::ImageAbsent { image: image.to_owned() }),
                Standing::NeedsCredentials(with) => Some(Reason::ImageCredentials { image: image.to_owned(), with }),
            };
            judged.all_usable = false;
            if let Some(reason) = reason.filter(|reason| !judged.reasons.contains(reason)) {
                judged.reasons.push(reason);
            }
        }
        judged
    }
}

fn known<T>(fact: &Fact<T>) -> Option<&T> {
    match fact {
        Fact::Known(value) => Some(value),
        Fact::Unknown(_) => None,
    }
}

/// Whether an entry of the kubelet's allow-list covers the image of this full name: the name itself, or a prefix that
/// ends in `/*` (`getAllowlistImagePattern`).
fn is_listed(listed: &[String], name: &str) -> bool {
    listed.iter().any(|entry| match entry.strip_suffix('*') {
        Some(prefix) => prefix.ends_with('/') && name.starts_with(prefix),
        None => name == entry,
    })
}

/// What the runtime has, by every name that leads there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Present {
    ids: BTreeSet<String>,
    /// `registry/path:tag` and `registry/path@digest`.
    by_name: BTreeMap<String, String>,
    /// The same without the registry.
    by_path: BTreeMap<String, BTreeSet<String>>,
}

enum Found<'a> {
    Nothing,
    One(&'a str),
    /// A short name that leads to different images, by different registries.
    Several,
}

impl Present {
    fn of(images: &[Image]) -> Self {
        let mut present = Self { ids: BTreeSet::new(), by_name: BTreeMap::new(), by_path: BTreeMap::new() };
        for image in images {
            present.ids.insert(image.id.clone());
            for reference in image.repo_tags.iter().chain(&image.repo_digests).filter_map(|name| Reference::parse(name))
            {
                let version = reference.version();
                present.by_path.entry(format!("{}{version}", reference.path)).or_default().insert(image.id.clone());
                present.by_name.insert(reference.exact(), image.id.clone());
            }
        }
        present
    }

    fn find(&self, reference: &Reference) -> Found<'_> {
        // Containerd writes `sha256:` before an ID, CRI-O does not.
        if let Some(hex) = reference.id()
            && let Some(id) = self.ids.iter().find(|id| id.strip_prefix("sha256:").unwrap_or(id) == hex)
        {
            return Found::One(id);
        }
        if let Some(id) = self.by_name.get(&reference.exact()) {
            return Found::One(id);
        }
        if !reference.short {
            return Found::Nothing;
        }
        // CRI-O looks for short names in the registries of its own configuration.
        let path = format!("{}{}", reference.path, reference.version());
        let without_library = path.strip_prefix(LIBRARY).unwrap_or(&path);
        let ids: BTreeSet<&String> =
            [path.as_str(), without_library].iter().filter_map(|path| self.by_path.get(*path)).flatten().collect();
        match ids.iter().next() {
            None => Found::Nothing,
            Some(id) if ids.len() == 1 => Found::One(id),
            Some(_) => Found::Several,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::look::PullRecord;
    use super::super::object::{Kind, Object, ObjectKey};
    use super::*;

    const NEW: Option<KubeletVersion> = None;
    const OLD: Option<KubeletVersion> = Some(KubeletVersion { major: 1, minor: 34 });
    const FIRST: Option<KubeletVersion> = Some(KubeletVersion { major: 1, minor: 35 });

    fn digest(digit: char) -> String {
        format!("sha256:{}", String::from(digit).repeat(64))
    }

    /// `{a}` stands for the digest of 64 a's, and so with b and c; `{B}` for the 64 b's alone.
    fn spelt(text: &str) -> String {
        text.replace("{a}", &digest('a'))
            .replace("{b}", &digest('b'))
            .replace("{c}", &digest('c'))
            .replace("{B}", &"b".repeat(64))
    }

    fn image(id: &str, names: &[&str]) -> Image {
        let (repo_digests, repo_tags) = names.iter().map(|name| spelt(name)).partition(|name| name.contains('@'));
        Image { id: spelt(id), repo_tags, repo_digests, pinned: false }
    }

    fn of(present: Vec<Image>, records: PullRecords, verification: ImageVerification) -> NodeImages {
        NodeImages::new(&Fact::Known(present), &Fact::Known(records), &Fact::Known(verification))
    }

    #[test]
    fn an_image_is_here_under_its_names_only() {
        let here = of(
            vec![
                image("{a}", &["docker.io/library/nginx:1.27", "docker.io/library/nginx@{b}"]),
                // As CRI-O tells it.
                image("{B}", &["quay.io/a/b:latest", "localhost/own:1"]),
                // Unpacked from a file, without names.
                image("sha256:0", &[]),
                // As no runtime should.
                image("sha256:1", &["<none>:<none>", ""]),
                image("sha256:2", &["r.example/x:1"]),
                image("sha256:3", &["s.example/x:1"]),
            ],
            PullRecords::default(),
            ImageVerification::Never,
        );
        use Standing::{Absent, Present, Unknown, Usable};
        #[rustfmt::skip]
        let rows = [
            ("nginx:1.27",                   Usable),
            ("docker.io/nginx:1.27",         Usable),
            ("index.docker.io/library/nginx:1.27", Usable),
            ("nginx",                        Absent),
            ("nginx:1.28",                   Absent),
            ("nginx@{b}",                    Usable),
            ("nginx:other@{b}",              Usable),
            // The digest of its configuration is no digest of a manifest.
            ("nginx@{a}",                    Absent),
            ("other@{b}",                    Absent),
            ("ghcr.io/library/nginx:1.27",   Absent),
            ("{a}",                          Usable),
            // As CRI-O tells it, which is asked with the prefix as well.
            ("{b}",                          Usable),
            ("{c}",                          Absent),
            ("quay.io/a/b",                  Usable),
            ("quay.io/a/b:latest",           Usable),
            ("quay.io/a/b:1",                Absent),
            // Short names: CRI-O goes through its own list of registries.
            ("a/b",                          Usable),
            ("own:1",                        Usable),
            ("own",                          Absent),
            ("docker.io/a/b",                Absent),
            ("docker.io/own:1",              Absent),
            // By two registries, to two images: one of them is meant, and it is here.
            ("x:1",                          Present),
            ("Not an image",                 Unknown),
        ];
        for (name, want) in rows {
            assert_eq!(here.standing(&spelt(name), NEW), want, "{name}");
        }
    }

    #[test]
    fn who_may_use_an_image_that_is_here() {
        use ImageVerification::{All, AllBut, Never, Pulled};
        let by = |pulled: &[(&str, PulledWith)]| PullRecords {
            pulled: vec![PullRecord {
                image_ref: "sha256:1".to_owned(),
                by_image: pulled.iter().map(|(name, with)| ((*name).to_owned(), with.clone())).collect(),
            }],
            ..PullRecords::default()
        };
        let ours = |with| by(&[("r.example/a/b", with)]);
        let node = || ours(PulledWith::Node);
        let secret = || ours(PulledWith::Secrets(vec!["default/s".to_owned(), "default/t".to_owned()]));
        let account = || ours(PulledWith::ServiceAccounts(vec!["default/builder".to_owned()]));
        let other_name = || by(&[("r.example/a/c", PulledWith::Node)]);
        let other_image = || PullRecords {
            pulled: secret()
                .pulled
                .into_iter()
                .map(|one| PullRecord { image_ref: "sha256:2".to_owned(), ..one })
                .collect(),
            ..PullRecords::default()
        };
        let none = PullRecords::default;
        let pulling = || PullRecords { pulling: ["r.example/a/b:1".to_owned()].into(), ..none() };
        let pulling_other = || PullRecords { pulling: ["r.example/a/b:2".to_owned()].into(), ..none() };
        let unreadable = || PullRecords { unreadable: Some("x".to_owned()), ..none() };
        let doubtful = || PullRecords { unreadable: Some("x".to_owned()), ..secret() };
        let allowed = |entry: &str| AllBut(vec!["z.example/z".to_owned(), entry.to_owned()]);
        let here = || Fact::Known(vec![image("sha256:1", &["r.example/a/b:1"])]);

        const FINE: &str = "usable";
        const MAYBE: &str = "present";
        const ANY: &str = "";
        const BY_SECRET: &str = "pull secret default/s, pull secret default/t";
        const BY_ACCOUNT: &str = "service account default/builder";
        #[rustfmt::skip]
        let rows = [
            // records             policy                         kubelet  standing
            (node(),            Pulled,                           NEW,     FINE),
            (secret(),          Pulled,                           NEW,     BY_SECRET),
            (secret(),          Pulled,                           FIRST,   BY_SECRET),
            (secret(),          Pulled,                           OLD,     FINE),
            (account(),         Pulled,                           NEW,     BY_ACCOUNT),
            (ours(PulledWith::Nothing), Pulled,                   NEW,     ANY),
            (by(&[]),           Pulled,                           NEW,     ANY),
            (other_name(),      Pulled,                           NEW,     ANY),
            (other_image(),     Pulled,                           NEW,     FINE),
            (none(),            Pulled,                           NEW,     FINE),
            (pulling(),         Pulled,                           NEW,     MAYBE),
            (pulling_other(),   Pulled,                           NEW,     FINE),
            (unreadable(),      Pulled,                           NEW,     MAYBE),
            (unreadable(),      Pulled,                           OLD,     FINE),
            (doubtful(),        Pulled,                           NEW,     BY_SECRET),

            (node(),            Never,                            NEW,     FINE),
            (secret(),          Never,                            NEW,     FINE),
            (account(),         Never,                            NEW,     FINE),
            (by(&[]),           Never,                            NEW,     FINE),
            (none(),            Never,                            NEW,     FINE),
            (pulling(),         Never,                            NEW,     FINE),
            (unreadable(),      Never,                            NEW,     FINE),

            (node(),            All,                              NEW,     FINE),
            (secret(),          All,                              NEW,     BY_SECRET),
            (account(),         All,                              NEW,     BY_ACCOUNT),
            (by(&[]),           All,                              NEW,     ANY),
            (none(),            All,                              NEW,     ANY),
            (none(),            All,                              OLD,     FINE),
            (pulling(),         All,                              NEW,     MAYBE),
            (unreadable(),      All,                              NEW,     MAYBE),

            (node(),            allowed("r.example/other"),       NEW,     FINE),
            (secret(),          allowed("r.example/other"),       NEW,     BY_SECRET),
            (none(),            allowed("r.example/other"),       NEW,     ANY),
            (secret(),          allowed("r.example/a/b"),         NEW,     FINE),
            (none(),            allowed("r.example/a/b"),         NEW,     FINE),
            (secret(),          allowed("r.example/a/*"),         NEW,     FINE),
            (secret(),          allowed("r.example/*"),           NEW,     FINE),
            (secret(),          allowed("r.example/a"),           NEW,     BY_SECRET),
            (secret(),          allowed("r.example/a/b/*"),       NEW,     BY_SECRET),
            (secret(),          allowed("r.example/a*"),          NEW,     BY_SECRET),
            (secret(),          allowed("*"),                     NEW,     BY_SECRET),
            (secret(),          AllBut(vec![]),                   NEW,     BY_SECRET),
        ];
        let shown = |standing: Standing| match standing {
            Standing::Usable => FINE.to_owned(),
            Standing::Present => MAYBE.to_owned(),
            Standing::NeedsCredentials(with) => with.join(", "),
            Standing::Unknown | Standing::Absent => format!("{standing:?}"),
        };
        for (records, policy, kubelet, want) in rows {
            let images = NodeImages::new(&here(), &Fact::Known(records.clone()), &Fact::Known(policy.clone()));
            assert_eq!(shown(images.standing("r.example/a/b:1", kubelet)), want, "{records:?} {policy:?} {kubelet:?}");
        }

        // What nobody knows says nothing against it.
        let unknown = || "x".to_owned();
        let (records, policy) = (Fact::Known(secret()), Fact::Known(Pulled));
        #[rustfmt::skip]
        let rows = [
            (NodeImages::unknown(),                                                             NEW, Standing::Unknown),
            (NodeImages::new(&Fact::Unknown(unknown()), &records, &policy),                     NEW, Standing::Unknown),
            (NodeImages::new(&here(), &Fact::Unknown(unknown()), &policy),                      NEW, Standing::Present),
            (NodeImages::new(&here(), &Fact::Unknown(unknown()), &Fact::Known(Never)),          NEW, Standing::Usable),
            (NodeImages::new(&here(), &records, &Fact::Unknown(unknown())),                     NEW, Standing::Present),
            (NodeImages::new(&here(), &records, &Fact::Unknown(unknown())),                     OLD, Standing::Usable),
            (NodeImages::new(&here(), &Fact::Unknown(unknown()), &Fact::Unknown(unknown())),    OLD, Standing::Usable),
            (NodeImages::new(&Fact::Known(vec![]), &Fact::Unknown(unknown()), &Fact::Unknown(unknown())), OLD, Standing::Absent),
        ];
        for (images, kubelet, want) in rows {
            assert_eq!(images.standing("r.example/a/b:1", kubelet), want, "{images:?}");
        }
    }

    #[test]
    fn the_sentences_say_what_to_do() {
        let image = || "r.example/a:1".to_owned();
        let credentials = |with: &[&str]| Reason::ImageCredentials {
            image: image(),
            with: with.iter().map(|with| (*with).to_owned()).collect(),
        };
        let remedy = "so the kubelet would pull it again for a copy, which has no pull secrets: use node-level \
                      credentials, or in the kubelet's configuration imagePullCredentialsVerificationPolicy: NeverVerify, \
                      or NeverVerifyAllowlistedImages with the image in preloadedImagesVerificationAllowlist";
        let rows = [
            (
                Reason::ImageAbsent { image: image() },
                "image r.example/a:1 is not on this node, and offline it can't be pulled: pull it while its registry \
                 answers (crictl pull r.example/a:1)"
                    .to_owned(),
            ),
            (
                credentials(&["pull secret shop/s"]),
                format!("image r.example/a:1 was pulled with pull secret shop/s, {remedy}"),
            ),
            (
                credentials(&["pull secret shop/s", "pull secret shop/t"]),
                format!("image r.example/a:1 was pulled with pull secret shop/s, pull secret shop/t, {remedy}"),
            ),
            (
                credentials(&[]),
                format!("image r.example/a:1 was pulled with credentials that are not on record, {remedy}"),
            ),
        ];
        for (reason, want) in rows {
            assert_eq!(reason.to_string(), want);
        }
    }

    #[test]
    fn every_image_of_a_pod_is_asked_for_once() {
        let images = of(
            vec![image("sha256:1", &["r.example/fine:1"]), image("sha256:2", &["r.example/theirs:1"])],
            PullRecords {
                pulled: vec![PullRecord {
                    image_ref: "sha256:2".to_owned(),
                    by_image: [("r.example/theirs".to_owned(), PulledWith::Secrets(vec!["default/s".to_owned()]))]
                        .into(),
                }],
                ..PullRecords::default()
            },
            ImageVerification::Pulled,
        );
        const FINE: &str = "r.example/fine:1";
        const THEIRS: &str = "r.example/theirs:1";
        const GONE: &str = "r.example/gone:1";
        let containers = |of: &[&str]| of.iter().map(|image| json!({"name": "c", "image": image})).collect::<Value>();
        let volume = |reference: &str| json!([{"name": "v", "image": {"reference": reference}}]);
        let main = || containers(&[FINE]);
        #[rustfmt::skip]
        let rows: [(Value, &[&str], bool); 11] = [
            (json!({"containers": main()}),                                                  &[],                                    true),
            (json!({"containers": containers(&[GONE, FINE])}),                               &["absent r.example/gone:1"],           false),
            (json!({"containers": containers(&[THEIRS, FINE])}),                             &["credentials r.example/theirs:1"],    false),
            (json!({"containers": containers(&[GONE, GONE, THEIRS, THEIRS])}),               &["absent r.example/gone:1", "credentials r.example/theirs:1"], false),
            (json!({"containers": main(), "initContainers": containers(&[GONE])}),           &["absent r.example/gone:1"],           false),
            // Those never come back.
            (json!({"containers": main(), "ephemeralContainers": containers(&[GONE])}),      &[],                                    true),
            (json!({"containers": main(), "volumes": volume(FINE)}),                         &[],                                    true),
            (json!({"containers": main(), "volumes": volume(GONE)}),                         &["absent r.example/gone:1"],           false),
            (json!({"containers": main(), "volumes": volume("")}),                           &[],                                    true),
            // Nobody can say what that is.
            (json!({"containers": containers(&["A b", FINE])}),                              &[],                                    false),
            (json!({"containers": [{"name": "c"}]}),                                         &[],                                    true),
        ];
        for (spec, want, all_usable) in rows {
            let key = ObjectKey::new(Kind::Pod, "default", "web").unwrap();
            let body = json!({"spec": spec}).to_string().into();
            let object = Object { key, uid: String::new(), resource_version: String::new(), body };
            let judged = images.judge(&ParentPod::parse(&object).unwrap(), NEW);
            let shown: Vec<String> = judged
                .reasons
                .iter()
                .map(|reason| match reason {
                    Reason::ImageAbsent { image } => format!("absent {image}"),
                    Reason::ImageCredentials { image, .. } => format!("credentials {image}"),
                    other => panic!("{other}"),
                })
                .collect();
            assert_eq!(
                (shown.iter().map(String::as_str).collect::<Vec<_>>().as_slice(), judged.all_usable),
                (want, all_usable),
                "{spec}"
            );
            assert!(judged.reasons.iter().all(Reason::is_ignorance), "a copy that runs has its images");
        }
    }
}
