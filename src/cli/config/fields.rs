//! The fields of a `CheckpointerConfiguration`. Each stands for an option of `ckpt-db run`, whose values and help it shares.
//!
//! A new option of `run` that is a setting gets a row here, and nothing else is needed: whichever command has the option then
//! takes it from the file. A test tells options without a row apart from those that are no settings ([`NO_SETTINGS`]).

/// One field.
#[derive(Debug)]
pub(super) struct Field {
    /// Its name; what stands before a dot is the mapping that it is in.
    pub(super) name: &'static str,
    /// The option that it stands for.
    pub(super) option: &'static str,
    /// What it holds.
    pub(super) shape: Shape,
    /// When another value comes into force.
    #[allow(dead_code, reason = "asked for at a reload, which comes next")]
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
    #[allow(dead_code, reason = "so far all of them are read at the start")]
    Reload,
    /// When the agent is started again.
    Restart,
}

const fn field(name: &'static str, option: &'static str, shape: Shape, change: Change) -> Field {
    Field { name, option, shape, change }
}

/// All of them, in the order in which they are shown.
#[rustfmt::skip]
pub(super) const FIELDS: &[Field] = {
    use Change::Restart;
    use Shape::{Endpoint, Gates, Path, Paths, Value, Values};
    &[
        field("featureGates",             "feature-gates",              Gates,    Restart),
        field("nodeName",                 "node-name",                  Value,    Restart),

        field("store",                    "store",                      Path,     Restart),
        field("adminSocket",              "admin-socket",               Path,     Restart),

        field("kubeconfig",               "kubeconfig",                 Path,     Restart),
        field("objectRefresh",            "object-refresh",             Value,    Restart),

        field("activationPolicy",         "activation-policy",          Value,    Restart),
        field("activationDelay",          "activation-delay",           Value,    Restart),
        field("activationWave",           "activation-wave",            Value,    Restart),
        field("checkpointGracePeriod",    "checkpoint-grace-period",    Value,    Restart),

        field("secretEnv",                "secret-env",                 Value,    Restart),
        field("envFileHelper",            "env-file-helper",            Path,     Restart),
        field("serviceAccountTokens",     "service-account-tokens",     Value,    Restart),
        field("keepLabels",               "keep-labels",                Value,    Restart),
        field("keepAnnotations",          "keep-annotation",            Values,   Restart),
        field("copyResources",            "copy-resources",             Value,    Restart),
        field("runtimeClass",             "runtime-class",              Value,    Restart),
        field("requireAuthentication",    "require-authentication",     Value,    Restart),

        field("podManifestPath",          "pod-manifest-path",          Path,     Restart),
        field("secretRoot",               "secret-root",                Path,     Restart),
        field("secretRootMedium",         "secret-root-medium",         Value,    Restart),
        field("bootstrapCheckpointPath",  "bootstrap-checkpoint-path",  Path,     Restart),
        field("containerRuntimeEndpoint", "container-runtime-endpoint", Endpoint, Restart),

        field("metricsBindAddress",       "metrics-bind-address",       Value,    Restart),
        field("exposeMetricsWithoutAuthentication", "expose-metrics-without-authentication", Value, Restart),

        field("nodeKeys",                 "node-key",                   Paths,    Restart),
        field("keyFiles",                 "key-file",                   Paths,    Restart),
        field("credentials",              "credential",                 Values,   Restart),
        field("keySlots",                 "key-slots",                  Value,    Restart),
        field("nodeKeySlots",             "node-key-slots",             Value,    Restart),
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
