//! Would the kubelet start a copy's containers from the images that are here, with no registry to ask?
//!
//! Two questions decide that. Is the image here: asked as the kubelet and the container runtime ask it, by its normalised
//! name. And, since Kubernetes 1.35 (`KubeletEnsureSecretPulledImages`), may any pod use it: an image that was pulled with
//! a pod's own credentials is pulled again for a pod that doesn't present them, and a static pod can't
//! (`pkg/kubelet/images/pullmanager`, `MustAttemptImagePull`).

use std::collections::{BTreeMap, BTreeSet};

use super::json::{items, text};
use super::look::{Image, PullRecord, PulledWith};
use super::node::Fact;
use super::pod::ParentPod;
use super::settings::KubeletVersion;
use super::verdict::Reason;

/// The first version whose kubelet asks for credentials of images that are here.
const VERIFIES_SINCE: KubeletVersion = KubeletVersion { major: 1, minor: 35 };

/// For which images the kubelet asks for credentials although they are here
/// (`imagePullCredentialsVerificationPolicy` of its configuration).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verification {
    /// `NeverVerify`, or the feature is switched off.
    Never,
    /// `NeverVerifyPreloadedImages`, the kubelet's default: for those that it pulled itself.
    PulledOnly,
    /// `NeverVerifyAllowlistedImages`: for all but these (`preloadedImagesVerificationAllowlist`).
    AllBut(Vec<String>),
    /// `AlwaysVerify`: for all.
    Always,
}

/// What is known of the images on this node.
///
/// What is not known says nothing against a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeImages {
    present: Option<Present>,
    /// By the runtime's name for the image.
    pulled: Option<BTreeMap<String, BTreeMap<String, PulledWith>>>,
    pulling: BTreeSet<String>,
    verification: Option<Verification>,
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

    /// What the runtime has, what the kubelet recorded, and what it does with that.
    #[must_use]
    pub fn new(present: &Fact<Vec<Image>>, pulled: &Fact<Vec<PullRecord>>, verification: &Fact<Verification>) -> Self {
        let by_ref = |records: &Vec<PullRecord>| {
            records.iter().map(|record| (record.image_ref.clone(), record.by_image.clone())).collect()
        };
        Self {
            present: known(present).map(|images| Present::of(images)),
            pulled: known(pulled).map(by_ref),
            pulling: BTreeSet::new(),
            verification: known(verification).cloned(),
        }
    }

    /// Images, as pods spell them, that the kubelet began to pull without recording an end (`image_manager/pulling`):
    /// what a kubelet that starts makes of such a one depends on what it finds then, and counts as not known.
    #[must_use]
    pub fn with_pulling(mut self, images: impl IntoIterator<Item = String>) -> Self {
        self.pulling = images.into_iter().filter_map(|image| Some(Reference::parse(&image)?.exact())).collect();
        self
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
        let asked_for_any = match &self.verification {
            None => return Standing::Present,
            Some(Verification::Never) => return Standing::Usable,
            Some(Verification::AllBut(listed)) if is_listed(listed, &reference.name()) => return Standing::Usable,
            Some(Verification::AllBut(_) | Verification::Always) => true,
            Some(Verification::PulledOnly) => false,
        };
        let Some(pulled) = &self.pulled else { return Standing::Present };
        let Some(by_image) = pulled.get(id) else {
            // Not pulled by the kubelet, as far as that is on record.
            return match asked_for_any {
                _ if self.pulling.contains(&reference.exact()) => Standing::Present,
                true => Standing::NeedsCredentials(Vec::new()),
                false => Standing::Usable,
            };
        };
        let named = |kind: &str, names: &[String]| names.iter().map(|name| format!("{kind} {name}")).collect();
        match by_image.get(&reference.name()) {
            Some(PulledWith::Node) => Standing::Usable,
            Some(PulledWith::Secrets(secrets)) => Standing::NeedsCredentials(named("pull secret", secrets)),
            Some(PulledWith::ServiceAccounts(accounts)) => {
                Standing::NeedsCredentials(named("service account", accounts))
            }
            // It was pulled under another name: the kubelet knows of nobody who may use this one.
            None => Standing::NeedsCredentials(Vec::new()),
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
        if let Some(id) = reference.id().and_then(|id| self.ids.get(&id)) {
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

const DOCKER_HUB: &str = "docker.io";
const LIBRARY: &str = "library/";

/// An image's name, read as `distribution/reference` reads it (`ParseNormalizedNamed`).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reference {
    registry: String,
    path: String,
    tag: Option<String>,
    digest: Option<String>,
    /// Whether the registry is not named.
    short: bool,
}

impl Reference {
    /// `None` for what the kubelet refuses as an `InvalidImageName`.
    fn parse(image: &str) -> Option<Self> {
        // A bare image ID is no name.
        if is_hex(image, 64) {
            return None;
        }
        let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
        let named = |first: &str| {
            first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase())
        };
        let (registry, rest) = match name.split_once('/') {
            Some((first, rest)) if named(first) => (Some(first), rest),
            Some(_) | None => (None, name),
        };
        // A colon before the first slash belongs to the registry's port.
        let (path, tag) = rest.split_once(':').map_or((rest, None), |(path, tag)| (path, Some(tag)));
        let fine = path.split('/').all(is_path_component)
            && registry.is_none_or(is_registry)
            && tag.is_none_or(is_tag)
            && digest.is_none_or(is_digest);
        if !fine {
            return None;
        }
        let short = registry.is_none();
        let registry = match registry {
            // Its old name.
            None | Some("index.docker.io") => DOCKER_HUB,
            Some(registry) => registry,
        };
        let path =
            if registry == DOCKER_HUB && !path.contains('/') { format!("{LIBRARY}{path}") } else { path.to_owned() };
        // The kubelet adds the default tag where there is neither (`applyDefaultImageTag`).
        let tag = tag.or_else(|| digest.is_none().then_some("latest")).map(str::to_owned);
        let parsed = Self { registry: registry.to_owned(), path, tag, digest: digest.map(str::to_owned), short };
        (parsed.name().len() <= 255).then_some(parsed)
    }

    /// Registry and path: the key of the kubelet's records.
    fn name(&self) -> String {
        format!("{}/{}", self.registry, self.path)
    }

    /// `@digest`, or else `:tag`: beside a digest the tag says nothing (containerd's `ParseDockerRef`).
    fn version(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => format!("@{digest}"),
            (None, tag) => format!(":{}", tag.as_deref().unwrap_or("latest")),
        }
    }

    fn exact(&self) -> String {
        self.name() + &self.version()
    }

    /// `sha256:<64 hex digits>` reads as a name with a tag, and runtimes take it for an image's ID.
    fn id(&self) -> Option<String> {
        let tag = self.tag.as_deref().filter(|tag| is_hex(tag, 64))?;
        (self.short && self.path == "library/sha256" && self.digest.is_none()).then(|| format!("sha256:{tag}"))
    }
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Lower-case letters and digits, with separators between them.
fn is_path_component(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = |b: Option<u8>| b.is_some_and(plain);
    ends(text.bytes().next()) && ends(text.bytes().last()) && text.bytes().all(|b| plain(b) || b"._-".contains(&b))
}

fn is_registry(text: &str) -> bool {
    text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'[')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b))
}

fn is_tag(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

fn is_digest(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, hex)| {
        algorithm.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
            && algorithm.bytes().all(|b| b.is_ascii_alphanumeric() || b"+._-".contains(&b))
            && hex.len() >= 32
            && hex.bytes().all(|b| b.is_ascii_hexdigit())
    })
}
