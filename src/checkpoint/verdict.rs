//! Would this pod come back offline, and if not, why? The answer as values, with one sentence and one stable code each.

use std::fmt;

use super::env_file::NoEnvFile;
use super::object::ObjectKey;

/// The answer for one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It comes back.
    Recoverable {
        /// What its operator should know.
        notes: Vec<Note>,
    },
    /// Its containers start as soon as the pod network works, which on this node needs the API server.
    WhenNetworkIs {
        /// What its operator should know.
        notes: Vec<Note>,
    },
    /// It can't come back; never empty.
    NotRecoverable {
        /// Every reason that was found, not only the first.
        reasons: Vec<Reason>,
    },
    /// It is not supposed to come back.
    NotMeant(NotMeant),
}

impl Verdict {
    /// Whether the pod only lacks what may turn up again, so that a copy of it is better left alone.
    #[must_use]
    pub fn is_ignorance(&self) -> bool {
        match self {
            Self::NotRecoverable { reasons } => reasons.iter().all(Reason::is_ignorance),
            Self::Recoverable { .. } | Self::WhenNetworkIs { .. } | Self::NotMeant(_) => false,
        }
    }
}

/// Why a pod can't come back from the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A required object is not stored.
    MissingObject {
        /// The object.
        object: ObjectKey,
        /// The field that names it, as a JSON path in the pod.
        field: String,
    },
    /// A named object is not stored, because the API server does not let this node read it.
    Forbidden {
        /// The object.
        object: ObjectKey,
        /// The field that names it, as a JSON path in the pod.
        field: String,
    },
    /// A required key of a stored object does not exist.
    MissingKey {
        /// The object.
        object: ObjectKey,
        /// The data key.
        key: String,
        /// The field that names it.
        field: String,
    },
    /// The Secret is stored, but no key at hand opens it.
    Sealed(ObjectKey),
    /// The Secret is not stored, because the store has no key yet.
    NoKeyYet(ObjectKey),
    /// The object's record is damaged.
    Damaged(ObjectKey),
    /// A stored object's data is not what the API allows.
    BadData {
        /// The object.
        object: ObjectKey,
        /// What is wrong, without values.
        problem: String,
    },
    /// An environment value comes from a Secret, and `secretEnv` refuses that.
    SecretEnvRefused {
        /// The field.
        field: String,
        /// Why it can't go through an env file, where that was wished for.
        no_env_file: Option<NoEnvFile>,
    },
    /// An environment value is not UTF-8 or has a NUL, which a manifest can't carry.
    ValueNotText {
        /// The object.
        object: ObjectKey,
        /// The data key.
        key: String,
        /// The field that names it.
        field: String,
    },
    /// A projected service account token, and the policy refuses to start without it.
    TokenRefused {
        /// The volume.
        volume: String,
    },
    /// A volume (or a source of a projected one) that needs the API server.
    Volume {
        /// The volume.
        volume: String,
        /// Its type, as the field is called.
        source: String,
    },
    /// Two files of one volume, or a path in it that leaves its directory.
    VolumePath {
        /// The volume.
        volume: String,
        /// What is wrong.
        problem: String,
    },
    /// A field whose meaning is unknown, so that it can't be translated safely.
    UnknownField {
        /// The field.
        field: String,
    },
    /// `runtimeClassName`: the class is read through the API.
    RuntimeClass(String),
    /// Devices and extended resources are assigned by plug-ins that know the parent only.
    ExtendedResource(String),
    /// Dynamic resource claims.
    ResourceClaims,
    /// `<name>-<node>` would be longer than 253 characters, or `<namespace>_<name>.json` than 255.
    NameTooLong,
    /// So much is made of what it names that it would crowd out other pods, or that no kubelet takes it.
    TooLarge(&'static str),
    /// It never ran on this node.
    NeverRan,
    /// No key authenticates the record, and `requireAuthentication` is set.
    Unauthenticated,
    /// The container runtime doesn't have an image that the pod needs.
    ImageAbsent {
        /// The image, as the pod spells it.
        image: String,
    },
    /// The kubelet wants credentials for an image that is here, and a static pod has none.
    ImageCredentials {
        /// The image, as the pod spells it.
        image: String,
        /// What it was pulled with, where that is on record: pull secrets or service accounts, each with its kind.
        with: Vec<String>,
    },
    /// The agent's own pod has no other credentials than a projected token, which nobody renews for a copy.
    OwnToken {
        /// The volume of the token.
        volume: String,
    },
    /// The stored body is not a Pod that this version can read.
    Malformed(String),
}

impl Reason {
    /// A stable name for scripts, metrics and logs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::MissingObject { .. } => "MissingObject",
            Self::Forbidden { .. } => "Forbidden",
            Self::MissingKey { .. } => "MissingKey",
            Self::Sealed(_) => "Sealed",
            Self::NoKeyYet(_) => "NoKeyYet",
            Self::Damaged(_) => "Damaged",
            Self::BadData { .. } => "BadData",
            Self::SecretEnvRefused { .. } => "SecretEnvRefused",
            Self::ValueNotText { .. } => "ValueNotText",
            Self::TokenRefused { .. } => "TokenRefused",
            Self::Volume { .. } => "Volume",
            Self::VolumePath { .. } => "VolumePath",
            Self::UnknownField { .. } => "UnknownField",
            Self::RuntimeClass(_) => "RuntimeClass",
            Self::ExtendedResource(_) => "ExtendedResource",
            Self::ResourceClaims => "ResourceClaims",
            Self::NameTooLong => "NameTooLong",
            Self::TooLarge(_) => "TooLarge",
            Self::NeverRan => "NeverRan",
            Self::Unauthenticated => "Unauthenticated",
            Self::ImageAbsent { .. } => "ImageAbsent",
            Self::ImageCredentials { .. } => "ImageCredentials",
            Self::OwnToken { .. } => "OwnToken",
            Self::Malformed(_) => "Malformed",
        }
    }
}

impl Reason {
    /// Whether it says that something is not known or not at hand, rather than that the pod can't or must not be a copy.
    ///
    /// A copy that runs already is not stopped for such a reason.
    #[must_use]
    pub fn is_ignorance(&self) -> bool {
        match self {
            Self::MissingObject { .. }
            | Self::Forbidden { .. }
            | Self::MissingKey { .. }
            | Self::Sealed(_)
            | Self::NoKeyYet(_)
            | Self::Damaged(_)
            | Self::BadData { .. }
            | Self::Unauthenticated
            | Self::ImageAbsent { .. }
            | Self::ImageCredentials { .. }
            | Self::Malformed(_) => true,
            Self::SecretEnvRefused { .. }
            | Self::ValueNotText { .. }
            | Self::TokenRefused { .. }
            | Self::Volume { .. }
            | Self::VolumePath { .. }
            | Self::UnknownField { .. }
            | Self::RuntimeClass(_)
            | Self::ExtendedResource(_)
            | Self::ResourceClaims
            | Self::NameTooLong
            | Self::TooLarge(_)
            | Self::OwnToken { .. }
            | Self::NeverRan => false,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingObject { object, field } => write!(f, "{object} is not stored ({field})"),
            Self::Forbidden { object, field } => write!(
                f,
                "{object}: the API server does not let this node read it ({field}); allow its credentials to get it"
            ),
            Self::MissingKey { object, key, field } => write!(f, "{object} has no key {key} ({field})"),
            Self::Sealed(object) => write!(f, "{object} is sealed and no key at hand opens it"),
            Self::NoKeyYet(object) => write!(f, "{object} is not stored: no node key yet"),
            Self::Damaged(object) => write!(f, "{object} is damaged in the store"),
            Self::BadData { object, problem } => write!(f, "{object}: {problem}"),
            Self::SecretEnvRefused { field, no_env_file } => {
                write!(f, "{field} comes from a Secret and would be readable in the mirror pod")?;
                if let Some(why) = no_env_file {
                    write!(f, "; no env file: {why}")?;
                }
                f.write_str(" (--secret-env=literal allows it)")
            }
            Self::ValueNotText { object, key, field } => {
                write!(f, "key {key} of {object} is not text that an environment variable can carry ({field})")
            }
            Self::TokenRefused { volume } => {
                write!(f, "volume {volume} has a service account token, and the token policy is refuse")
            }
            Self::Volume { volume, source } => {
                write!(f, "volume {volume} is of type {source}, which a static pod can't have")
            }
            Self::VolumePath { volume, problem } => write!(f, "volume {volume}: {problem}"),
            Self::UnknownField { field } => write!(f, "{field} is not known to this version"),
            Self::RuntimeClass(class) => write!(f, "runtimeClassName {class} is read through the API server"),
            Self::ExtendedResource(name) => write!(f, "extended resource {name} is assigned to the parent only"),
            Self::ResourceClaims => f.write_str("it has resource claims"),
            Self::NameTooLong => f.write_str("its name is too long for a copy: over 253 characters with the node's name, or a file or log directory name over 255 bytes with its namespace"),
            Self::TooLarge(what) => write!(f, "its copy would be too large: {what}"),
            Self::NeverRan => f.write_str("it never ran on this node"),
            Self::Unauthenticated => f.write_str("its record is not authenticated, and requireAuthentication is set"),
            Self::ImageAbsent { image } => write!(
                f,
                "image {image} is not on this node, and offline it can't be pulled: pull it while its registry answers \
                 (crictl pull {image})"
            ),
            Self::ImageCredentials { image, with } => {
                let with = if with.is_empty() { "credentials that are not on record".to_owned() } else { with.join(", ") };
                write!(
                    f,
                    "image {image} was pulled with {with}, so the kubelet would pull it again for a copy, which has no \
                     pull secrets: use node-level credentials, or in the kubelet's configuration \
                     imagePullCredentialsVerificationPolicy: NeverVerify, or NeverVerifyAllowlistedImages with the image \
                     in preloadedImagesVerificationAllowlist"
                )
            }
            Self::OwnToken { volume } => write!(
                f,
                "volume {volume} has the agent's only credentials, and a projected token can't be kept by a copy: mount \
                 the kubelet's kubeconfig and pki by hostPath, or a token Secret"
            ),
            Self::Malformed(problem) => write!(f, "the stored object can't be read: {problem}"),
        }
    }
}

/// Something an operator should know of a pod that does come back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Note {
    /// The labels are dropped: Services, PDBs and NetworkPolicies do not select the copy.
    LabelsDropped,
    /// A service account token is left out of this volume.
    TokenOmitted {
        /// The volume.
        volume: String,
    },
    /// The manifest holds values of Secrets in clear text, and the mirror pod will show them.
    ClearEnv {
        /// Why they can't go through an env file, where that was wished for.
        no_env_file: Option<NoEnvFile>,
    },
    /// Environment values from Secrets come from a file in memory, which an init container writes: they stand neither in
    /// the manifest nor in the mirror pod.
    EnvFile,
    /// The record passed its digest, but no key was there to authenticate it.
    Unauthenticated,
    /// The copy must go before the parent comes back (host port, writable shared storage, StatefulSet).
    YieldFirst,
    /// Image pull secrets are dropped; since 1.35 the kubelet may then refuse an image pulled with them.
    PullSecretsDropped,
    /// Records of Services are damaged, so some of the Service environment variables may be missing.
    ServicesDamaged,
    /// Services are not stored, so the Service environment variables are missing.
    NoServices,
    /// A field that this version does not know was kept as it is.
    UnknownFieldKept {
        /// The field.
        field: String,
    },
    /// The runtime class was dropped at the operator's wish.
    RuntimeClassDropped,
    /// It is rendered but not activated, because it belongs to a StatefulSet and is not annotated.
    StatefulSetNotActivated,
    /// It is rendered but not activated, because the policy activates annotated pods only.
    NotAnnotated,
    /// The copy's hostname is `<name>-<node>`: the parent's name has dots, which `hostname` can't carry.
    HostnameDiffers,
    /// A variable is left out, because kubelets before 1.35 refuse a static pod with such a name.
    VariableDropped {
        /// The variable.
        name: String,
    },
    /// Several stored pods want this host port; the one of the highest priority gets it.
    HostPortContested {
        /// The port.
        port: u16,
        /// The pod that wins.
        winner: String,
    },
}

impl Note {
    /// A stable name for scripts, metrics and logs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::LabelsDropped => "LabelsDropped",
            Self::TokenOmitted { .. } => "TokenOmitted",
            Self::ClearEnv { .. } => "ClearEnv",
            Self::EnvFile => "EnvFile",
            Self::Unauthenticated => "Unauthenticated",
            Self::YieldFirst => "YieldFirst",
            Self::PullSecretsDropped => "PullSecretsDropped",
            Self::NoServices => "NoServices",
            Self::ServicesDamaged => "ServicesDamaged",
            Self::UnknownFieldKept { .. } => "UnknownFieldKept",
            Self::RuntimeClassDropped => "RuntimeClassDropped",
            Self::StatefulSetNotActivated => "StatefulSetNotActivated",
            Self::NotAnnotated => "NotAnnotated",
            Self::HostnameDiffers => "HostnameDiffers",
            Self::VariableDropped { .. } => "VariableDropped",
            Self::HostPortContested { .. } => "HostPortContested",
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LabelsDropped => f.write_str("labels dropped (no Service, PDB or NetworkPolicy selects the copy)"),
            Self::TokenOmitted { volume } => write!(f, "token omitted from {volume}"),
            Self::ClearEnv { no_env_file: None } => f.write_str("Secret values in clear in the manifest"),
            Self::ClearEnv { no_env_file: Some(why) } => {
                write!(f, "Secret values in clear in the manifest (no env file: {why})")
            }
            Self::EnvFile => f.write_str("Secret values through an env file in memory"),
            Self::Unauthenticated => f.write_str("unauthenticated"),
            Self::YieldFirst => f.write_str("yields before its parent"),
            Self::PullSecretsDropped => f.write_str(
                "image pull secrets dropped: an image pulled with them may be refused offline (use node-level credentials, \
                 or the kubelet's imagePullCredentialsVerificationPolicy)",
            ),
            Self::NoServices => f.write_str("no Service environment"),
            Self::ServicesDamaged => f.write_str("Service environment may be incomplete: damaged records"),
            Self::UnknownFieldKept { field } => write!(f, "unknown field {field} kept"),
            Self::RuntimeClassDropped => f.write_str("runtime class dropped"),
            Self::StatefulSetNotActivated => f.write_str("not activated: StatefulSet pod without annotation"),
            Self::NotAnnotated => f.write_str("not activated: policy is annotated"),
            Self::HostnameDiffers => f.write_str("hostname differs"),
            Self::VariableDropped { name } => write!(f, "variable {name} dropped"),
            Self::HostPortContested { port, winner } => write!(f, "host port {port} goes to {winner}"),
        }
    }
}

/// Why a pod is not supposed to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotMeant {
    /// Phase Succeeded or Failed, now or ever before (a graceful node shutdown is no outcome).
    Finished,
    /// It is being deleted.
    Deleting,
    /// `restartPolicy` Never or OnFailure, and not annotated.
    RunsOnce,
    /// Annotation `ckpt-db.io/checkpoint: "false"`.
    OptedOut,
    /// The activation policy is off.
    PolicyOff,
    /// A static pod, its mirror, or a copy of ours: never a parent.
    NotAParent,
}

impl NotMeant {
    /// A stable name for scripts, metrics and logs.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Finished => "Finished",
            Self::Deleting => "Deleting",
            Self::RunsOnce => "RunsOnce",
            Self::OptedOut => "OptedOut",
            Self::PolicyOff => "PolicyOff",
            Self::NotAParent => "NotAParent",
        }
    }
}

impl fmt::Display for NotMeant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Finished => "it has finished",
            Self::Deleting => "it is being deleted",
            Self::RunsOnce => "its restartPolicy is not Always",
            Self::OptedOut => "it is opted out by annotation ckpt-db.io/checkpoint",
            Self::PolicyOff => "the activation policy is off",
            Self::NotAParent => "it is a static pod, a mirror pod or a copy",
        })
    }
}
