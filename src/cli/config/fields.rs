//! The fields of a `CheckpointerConfiguration`. Each stands for an option of `ckpt-db run`, whose values and help it shares.
//!
//! A new option of `run` that is a setting gets a row here, and nothing else is needed: whichever command has the option then
//! takes it from the file. A test tells options without a row apart from those that are no settings ([`NO_SETTINGS`]).

use std::path::PathBuf;

use ckpt_db::layout::Layout;

/// One field.
#[derive(Debug)]
pub(super) struct Field {
    /// Its name; what stands before a dot is the mapping that it is in.
    pub(super) name: &'static str,
    /// The option that it stands for.
    pub(super) option: &'static str,
    /// What it holds.
    pub(super) shape: Shape,
    /// What it holds where nobody sets it.
    pub(super) default: Unset,
    /// When another value comes into force.
    pub(super) change: Change,
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// A text, number, duration or boolean.
    Value,
    /// An absolute path, which lies below `--root` as the default ones do.
    Path,
    /// The same, or `unix://` before one.
    Endpoint,
    /// A list of texts; the option may be given several times.
    Values,
    /// A list of absolute paths.
    Paths,
    /// The mapping `featureGates`.
    Gates,
}

/// When another value of a field comes into force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// At a reload (SIGHUP).
    Reload,
    /// When the agent is started again.
    Restart,
}

/// What holds where a field is set nowhere.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unset {
    /// The default value of the option.
    Option,
    /// This, as YAML; the option has none of its own.
    Is(&'static str),
    /// A path below the root.
    Path(fn(&Layout) -> PathBuf),
    /// There is no value: in the words of the sample, what happens then.
    None(&'static str),
}

const fn field(name: &'static str, option: &'static str, shape: Shape, default: Unset, change: Change) -> Field {
    Field { name, option, shape, default, change }
}

/// All of them, in the order in which they are shown; what belongs together stands together.
#[rustfmt::skip]
pub(super) const FIELDS: &[Field] = {
    use Change::{Reload, Restart};
    use Unset::{Is, None, Option};
    use Shape::{Endpoint, Gates, Path, Paths, Value, Values};
    &[
        field("featureGates",             "feature-gates",              Gates,    Is("{Checkpointing: false}"),             Restart),
        field("nodeName",                 "node-name",                  Value,    None("as the credentials, else the host is called"), Restart),

        field("store",                    "store",                      Path,     Unset::Path(Layout::store),             Restart),
        field("adminSocket",              "admin-socket",               Path,     Unset::Path(Layout::admin_socket),      Restart),

        field("kubeconfig",               "kubeconfig",                 Path,     None("the kubelet's, where it is found"), Reload),
        field("objectRefresh",            "object-refresh",             Value,    Option,                                   Reload),

        field("activationPolicy",         "activation-policy",          Value,    Option,                                   Reload),
        field("activationDelay",          "activation-delay",           Value,    Option,                                   Reload),
        field("activationWave",           "activation-wave",            Value,    Option,                                   Reload),
        field("checkpointGracePeriod",    "checkpoint-grace-period",    Value,    Option,                                   Reload),

        field("secretEnv",                "secret-env",                 Value,    Option,                                   Reload),
        field("envFileHelper",            "env-file-helper",            Path,     None("the program that runs"),            Reload),
        field("serviceAccountTokens",     "service-account-tokens",     Value,    Option,                                   Reload),
        field("keepLabels",               "keep-labels",                Value,    Option,                                   Reload),
        field("keepAnnotations",          "keep-annotation",            Values,   Is("[]"),                                 Reload),
        field("copyResources",            "copy-resources",             Value,    Option,                                   Reload),
        field("runtimeClass",             "runtime-class",              Value,    Option,                                   Reload),
        field("requireAuthentication",    "require-authentication",     Value,    Option,                                   Restart),

        field("podManifestPath",          "pod-manifest-path",          Path,     Unset::Path(Layout::manifests),         Restart),
        field("secretRoot",               "secret-root",                Path,     Unset::Path(Layout::secrets),           Restart),
        field("secretRootMedium",         "secret-root-medium",         Value,    Option,                                   Restart),
        field("bootstrapCheckpointPath",  "bootstrap-checkpoint-path",  Path,     None("there are no such files"),          Restart),
        field("containerRuntimeEndpoint", "container-runtime-endpoint", Endpoint, None("the kubelet's, where it is found"), Restart),

        field("nodeKeys",                 "node-key",                   Paths,    None("the kubelet's, where they are found"), Reload),
        field("keyFiles",                 "key-file",                   Paths,    Is("[]"),                                 Reload),
        field("credentials",              "credential",                 Values,   None("ckpt-db.key, if it is there"),      Reload),
        field("keySlots",                 "key-slots",                  Value,    Option,                                   Restart),
        field("nodeKeySlots",             "node-key-slots",             Value,    Option,                                   Restart),

        field("logging.format",           "logging-format",             Value,    Is("text"),                               Restart),
        field("logging.verbosity",        "v",                          Value,    Is("0"),                                  Reload),
        field("logging.vmodule",          "vmodule",                    Values,   Is("[]"),                                 Reload),

        field("metricsBindAddress",       "metrics-bind-address",       Value,    Is("127.0.0.1:10271"),                   Restart),
        field("exposeMetricsWithoutAuthentication", "expose-metrics-without-authentication", Value, Option,                  Restart),
    ]
};

/// Options of `run` that are no settings of a node: what one start does, where everything lies, what a person types in.
#[cfg(test)]
pub(super) const NO_SETTINGS: &[&str] = &[
    "boot-id-file",
    "config",
    "file-check-frequency",
    "generate-node-key",
    "manifests",
    "once",
    "recovery-code",
    "recovery-code-file",
    "root",
    "strict",
];
