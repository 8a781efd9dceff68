//! Metrics in Prometheus' manner: what there is, what is counted while it happens, and the page that is made of it when
//! somebody asks.
//!
//! Written out instead of taken from a crate: most values are in the status document already and are looked at when they are
//! asked for, so that there is no registry to keep; and the official client library writes OpenMetrics only, in which
//! `promtool check metrics` finds no help for any counter.
//!
//! No label has the name of an object in it: a node has the same series whatever runs on it.

mod counters;
mod page;
mod process;
mod text;

pub use counters::{Counters, Failed};
pub use page::{Feature, Gathered, Inventory, Slot, page};
pub use process::Process;
pub(in crate::ops) use text::CONTENT_TYPE;

/// What a metric is, for Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Only grows while the process lives.
    Counter,
    /// A value of the moment.
    Gauge,
    /// Counts of what was at most so large.
    Histogram,
}

impl Type {
    /// Its name in the exposition format.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name, the unit last.
    pub name: &'static str,
    /// What it is.
    pub r#type: Type,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it means, in one sentence.
    pub help: &'static str,
}

/// Declares each metric, and all of them in the order of the page.
macro_rules! metrics {
    ($($constant:ident = $type:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub(crate) const $constant: Metric =
                Metric { name: $name, r#type: Type::$type, labels: &[$($label),*], help: $help };
        )*

        /// Every metric, in the order of the page.
        pub const ALL: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    BUILD_INFO = Gauge "ckpt_db_build_info" ["version"]
        "Always 1; the version of the agent.";
    FEATURE_ENABLED = Gauge "kubernetes_feature_enabled" ["name", "stage"]
        "Whether a feature gate is on; its stage is ALPHA, BETA or empty (GA), as Kubernetes components say it.";
    HEALTH_CHECK = Gauge "kubernetes_healthcheck" ["name", "type"]
        "Whether a check of /livez or /readyz passes.";
    ACTIVATION_POLICY = Gauge "ckpt_db_activation_policy" ["policy"]
        "Always 1; which pods are activated: off, annotated or all.";
    COLD_START = Gauge "ckpt_db_cold_start_seconds" []
        "From the start of the process to the end of its first round, when what the store holds is rendered.";
    ROUNDS = Counter "ckpt_db_rounds_total" []
        "Rounds of looking at the node and deciding.";
    ROUND_FAILURES = Counter "ckpt_db_round_failures_total" []
        "Rounds that could not be made; they changed nothing.";
    CONTAINER_RUNTIME = Gauge "ckpt_db_container_runtime_up" []
        "Whether the container runtime answers; without it no copy is started.";
    KUBELET = Gauge "ckpt_db_kubelet_running" []
        "Whether a kubelet runs; absent while nobody knows.";

    API_STATE = Gauge "ckpt_db_api_server_state" ["state"]
        "1 for how the API server stands: Answering, Silent, or Refusing (it answers and gives no facts).";
    API_STATE_SECONDS = Gauge "ckpt_db_api_server_state_seconds" []
        "For how long it has stood so without a break.";
    API_SILENCE = Gauge "ckpt_db_api_server_silence_seconds" []
        "For how long nothing has been heard of the API server; 0 unless it is silent.";
    IN_STEP = Gauge "ckpt_db_in_step" []
        "Whether what is stored is in step with the API server: a complete listing is durable, and is being followed.";
    SYNC_AGE = Gauge "ckpt_db_last_complete_sync_age_seconds" []
        "How long ago what is stored was last in step with the API server; 0 while it is, absent if this process never was.";
    LISTINGS = Counter "ckpt_db_listings_total" []
        "Complete listings of the pods of this node that became durable.";
    WATCH_RESTARTS = Counter "ckpt_db_watch_restarts_total" ["kind", "reason"]
        "Watches that ended and are begun anew, by kind and reason: expired (as asked for), cut, lost (its position is of no use) or failed.";
    CERTIFICATE = Gauge "ckpt_db_client_certificate_expiration_timestamp_seconds" []
        "When the client certificate that is used for the API server expires, in seconds since 1970; absent without one.";

    OBJECTS = Gauge "ckpt_db_store_objects" ["kind"]
        "Stored objects that can be read.";
    POPULATED = Gauge "ckpt_db_store_populated" []
        "Whether the store ever held a complete listing.";
    WRITABLE = Gauge "ckpt_db_store_writable" []
        "Whether the store takes commits; without that changes are kept nowhere.";
    LOCK = Gauge "ckpt_db_store_lock_state" ["state"]
        "1 for whether Secrets can be read and written: Open, Locked (no key at hand opens it) or Keyless (it has no key yet).";
    QUARANTINED = Gauge "ckpt_db_store_quarantined_records" []
        "Records that are not as they should be; what they hold is not used.";
    DAMAGED_FILES = Gauge "ckpt_db_store_damaged_files" []
        "Damaged files that are kept beside the store since it was rebuilt.";
    REVISION = Gauge "ckpt_db_store_revision" []
        "How many commits led to what is stored, since the store was made.";
    FILE_BYTES = Gauge "ckpt_db_store_file_bytes" []
        "Size of the store's file.";
    AVAILABLE_BYTES = Gauge "ckpt_db_store_filesystem_available_bytes" []
        "Room on the store's file system.";
    COMMIT_SECONDS = Histogram "ckpt_db_commit_duration_seconds" []
        "How long a commit took until it was durable.";
    COMMIT_CHANGES = Histogram "ckpt_db_commit_changes" []
        "How many changes were committed together.";
    COMMIT_BYTES = Counter "ckpt_db_commit_written_bytes_total" []
        "Bytes of the records that commits wrote, sealing and framing included.";
    COMMIT_FAILURES = Counter "ckpt_db_commit_failures_total" []
        "Commits that failed: a full or read-only disk, or a store that is of no use.";
    REJECTED = Counter "ckpt_db_objects_rejected_total" []
        "Objects that can't be stored and were left out of a commit.";
    SLOTS = Gauge "ckpt_db_key_slots" ["kind"]
        "Key slots of the store: node-key, recovery-code, key-file or credential.";
    SLOT_OLDEST = Gauge "ckpt_db_key_slot_oldest_age_seconds" ["kind"]
        "Age of the oldest key slot of a kind; absent without one.";
    SLOT_NEWEST = Gauge "ckpt_db_key_slot_newest_age_seconds" ["kind"]
        "Age of the newest key slot of a kind; absent without one.";

    PODS = Gauge "ckpt_db_pods" ["verdict"]
        "Stored pods by verdict: Recoverable, WhenNetworkIs (once the pod network works), NotRecoverable or NotMeant (to be).";
    NOT_RECOVERABLE = Gauge "ckpt_db_pods_not_recoverable" ["reason"]
        "Pods that would not come back, by reason; one with several reasons counts for each, and a reason without any is absent.";
    HEALTH = Gauge "ckpt_db_pods_health" ["health"]
        "Stored pods by how they do now; CopyFails, Down and NobodyKnows should run and, as far as anybody knows, do not.";
    CHECKPOINTS = Gauge "ckpt_db_checkpoints" ["state"]
        "Checkpoints by where they are in their life.";
    COPIES = Gauge "ckpt_db_active_copies" ["state"]
        "Active copies: starting, running, failing or unknown (the container runtime can't be asked).";
    HELD = Gauge "ckpt_db_pods_held" []
        "Pods of which an operator said that no copy may run.";
    ALARMS = Gauge "ckpt_db_alarms" ["code"]
        "What somebody should look at now: ParentRejected, NotRendered, Files, LeftOver, ConfigurationRefused or RestartNeeded.";
    ACTIVATIONS = Counter "ckpt_db_activations_total" []
        "Copies that were started.";
    HAND_OVERS = Counter "ckpt_db_hand_overs_total" []
        "Copies that were removed because the parent took over.";
    ENDED = Counter "ckpt_db_checkpoints_ended_total" []
        "Checkpoints that ended: the parent is gone, and the grace period is over.";
    REJECTED_PARENTS = Counter "ckpt_db_rejected_parents_total" []
        "Parents that the kubelet rejected although their copies had gone, each time that one is seen so.";
    BOOTSTRAP_FILES = Gauge "ckpt_db_bootstrap_files" []
        "Files of bootstrap checkpointing; absent unless it is asked for.";
    BOOTSTRAP_FAILURES = Counter "ckpt_db_bootstrap_failures_total" ["operation"]
        "Files of bootstrap checkpointing that could not be written or removed (write, remove), or not be looked at (read).";

    CPU = Counter "process_cpu_seconds_total" []
        "CPU time of this process, user and system.";
    RESIDENT = Gauge "process_resident_memory_bytes" []
        "Resident memory of this process.";
    OPEN_FDS = Gauge "process_open_fds" []
        "Open file descriptors of this process.";
    MAX_FDS = Gauge "process_max_fds" []
        "How many it may have.";
    STARTED = Gauge "process_start_time_seconds" []
        "When this process was started, in seconds since 1970 by the clock of now.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_the_rules() {
        let names: BTreeSet<&str> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len(), "a name stands for two metrics");
        for Metric { name, r#type, labels, help } in ALL {
            let word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            assert!(word(name) && labels.iter().all(|label| word(label)), "{name}");
            let ours = name.starts_with("ckpt_db_") || name.starts_with("process_") || name.starts_with("kubernetes_");
            assert!(ours, "{name}");
            assert_eq!(name.ends_with("_total"), *r#type == Type::Counter, "{name}");
            assert!(help.ends_with('.') && !help.contains('|'), "{name}: {help}");
            // They would make a series for each pod.
            for label in *labels {
                assert!(!["pod", "namespace", "uid", "object", "node"].contains(label), "{name}");
            }
        }
    }
}
