//! Where the commands of each page are run.

/// What a page's commands find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scene {
    /// A checkout, no cluster, no root: `tests/documentation`.
    Checkout,
    /// A node with a real systemd that has joined a real API server: `tests/cluster/documented`.
    Node,
    /// What `just sandbox` makes: `tests/cluster/documented`.
    Sandbox,
}

/// Every page with commands that are run; in others each block says why it is not.
pub(crate) const SCENES: &[(&str, Scene)] = &[
    ("README.md", Scene::Checkout),
    ("docs/how-to/backup-and-restore.md", Scene::Node),
    ("docs/how-to/install.md", Scene::Node),
    ("docs/how-to/keys.md", Scene::Node),
    ("docs/how-to/manifests.md", Scene::Node),
    ("docs/how-to/migrate-pod-checkpointer.md", Scene::Node),
    ("docs/how-to/planned-work.md", Scene::Node),
    ("docs/how-to/recover-a-dark-node.md", Scene::Node),
    ("docs/how-to/shadow-rollout.md", Scene::Node),
    ("docs/tutorial.md", Scene::Sandbox),
];
