//! Values of Secrets through an env file: an init container of the pod's own image runs this program, which writes the
//! file into a memory volume, and the containers' variables name it (`valueFrom.fileKeyRef`).
//!
//! The values lie below the secret root, one file each, and are mounted into that one container only. A parent directory
//! that nobody else may enter keeps others of the host away, and a bind mount steps over it, so that the files may be
//! readable for whatever user the container has. The program is mounted as a file: it has to be static, so that an image
//! needs nothing but itself.
//!
//! What validation asks for (`pkg/apis/core/validation`, `validateFileKeySelector`): an emptyDir of the pod, a relative path
//! without `..`, a key of printable characters. The container that reads the variable need not mount the volume, but some
//! container must, or the kubelet doesn't make it.

use serde_json::{Map, Value, json};

use super::super::env_file::{self, NoEnvFile};
use super::super::json::{items, object, set, text};
use super::super::object::ObjectKey;
use super::super::pod::ParentPod;
use super::super::rendering::{Contents, Tree, TreeFile, TreeRoot};
use super::super::settings::{SecretEnv, Settings};
use super::super::verdict::Note;
use super::{Findings, Parent};

/// Directory below the pod's: a tilde occurs in no object's name, and no volume's tree has this one.
const TREE: [&str; 2] = ["ckpt-db~env", "values"];
/// What the init container sees. One directory at the top, which no image has.
const HELPER: &str = "/.ckpt-db/ckpt-db";
const VALUES: &str = "/.ckpt-db/values";
const OUTPUT: &str = "/.ckpt-db/env";

/// Where the values of Secrets go.
pub(super) enum SecretValues {
    /// Into an env file, by the program at this path of the node.
    EnvFile(String),
    /// Into the manifest. An env file was wished for, and this is why there is none.
    Literal(Option<NoEnvFile>),
    /// Nowhere: such a pod is refused.
    Refused(Option<NoEnvFile>),
}

impl SecretValues {
    /// What the settings say for this pod, before anything is known of the values.
    pub(super) fn wanted(pod: &ParentPod, settings: &Settings) -> Self {
        match settings.secret_env {
            SecretEnv::Literal => Self::Literal(None),
            SecretEnv::Refuse => Self::Refused(None),
            SecretEnv::EnvFile | SecretEnv::Auto => match possible(settings) {
                Ok(helper) => Self::EnvFile(helper),
                Err(why) => Self::without_env_file(pod, settings, why),
            },
        }
    }

    /// The same where an env file turned out to be impossible.
    pub(super) fn without_env_file(pod: &ParentPod, settings: &Settings, why: NoEnvFile) -> Self {
        match settings.secret_env {
            SecretEnv::Auto if pod.annotated() => Self::Literal(Some(why)),
            SecretEnv::Auto | SecretEnv::EnvFile | SecretEnv::Refuse => Self::Refused(Some(why)),
            SecretEnv::Literal => Self::Literal(None),
        }
    }
}

fn possible(settings: &Settings) -> Result<String, NoEnvFile> {
    match settings.kubelet_version {
        Some(version) if (version.major, version.minor) < (1, 35) => return Err(NoEnvFile::Kubelet(version)),
        // Everything else takes an unknown version for the newest. Here there is another way that every kubelet takes.
        None if settings.secret_env == SecretEnv::Auto => return Err(NoEnvFile::KubeletUnknown),
        None | Some(_) => {}
    }
    settings.env_file_helper.clone().map_err(NoEnvFile::Helper)
}

/// A value of a Secret, by where it comes from.
pub(super) struct Origin {
    pub(super) object: ObjectKey,
    pub(super) key: String,
    /// Length of the value, in bytes.
    pub(super) len: usize,
    /// Whether an env file carries it.
    pub(super) fits: bool,
}

impl Origin {
    pub(super) fn new(object: &ObjectKey, key: &str, value: &str) -> Self {
        let fits = env_file::carries(value.as_bytes());
        Self { object: object.clone(), key: key.to_owned(), len: value.len(), fits }
    }
}

/// The values that the pod's variables name, numbered in the order in which they were met.
#[derive(Default)]
pub(super) struct Values {
    all: Vec<(ObjectKey, String)>,
    bytes: usize,
    problem: Option<NoEnvFile>,
}

impl Values {
    /// The source of a variable that has this value; each value stands in the file once.
    pub(super) fn source(&mut self, pod: &ParentPod, origin: Origin, container: &str, variable: &str) -> Value {
        if !origin.fits {
            let (container, variable) = (container.to_owned(), variable.to_owned());
            self.problem.get_or_insert(NoEnvFile::Value { container, variable });
        }
        let known = self.all.iter().position(|(object, key)| *object == origin.object && *key == origin.key);
        let at = known.unwrap_or_else(|| {
            self.bytes += env_file::overhead_bytes(&key_of(self.all.len())) + origin.len;
            self.all.push((origin.object, origin.key));
            self.all.len() - 1
        });
        json!({"fileKeyRef": {"volumeName": volume(pod, ENV), "path": env_file::FILE_NAME, "key": key_of(at)}})
    }
}

/// Not the variable's name: two containers may have different values of one name.
fn key_of(at: usize) -> String {
    format!("V{}", at + 1)
}

const ENV: &str = "ckpt-db-env";

/// `name`, or with a number behind it where the pod has a volume of that name.
fn volume(pod: &ParentPod, name: &str) -> String {
    free(name, |name| items(pod.spec(), "volumes").iter().any(|volume| text(volume, "name") == Some(name)))
}

fn free(name: &str, taken: impl Fn(&str) -> bool) -> String {
    if !taken(name) {
        return name.to_owned();
    }
    let mut number = 2_usize;
    loop {
        let numbered = format!("{name}-{number}");
        if !taken(&numbered) {
            return numbered;
        }
        number += 1;
    }
}

/// Adds the init container, its volumes and the tree of the values, where any variable needs them.
///
/// # Errors
/// Why the pod can't have an env file; what it has become is of no use then.
pub(super) fn add(parent: &Parent<'_>, findings: &mut Findings, spec: &mut Value) -> Result<(), NoEnvFile> {
    let values = std::mem::take(&mut findings.env_values);
    if let Some(why) = values.problem {
        return Err(why);
    }
    let SecretValues::EnvFile(helper) = parent.secret_values else { return Ok(()) };
    if values.all.is_empty() {
        return Ok(());
    }
    if values.bytes > env_file::FILE_BYTES_MAX {
        return Err(NoEnvFile::TooLarge);
    }
    let pod = parent.pod;
    let [env, of_values, of_helper] = [ENV, "ckpt-db-values", "ckpt-db-helper"].map(|name| volume(pod, name));

    let container = init_container(parent, spec, [&env, &of_values, &of_helper]);
    insert(spec, "initContainers", 0, container);

    let file = |(at, (object, key)): (usize, (ObjectKey, String))| TreeFile {
        path: vec![key_of(at)],
        mode: 0o444,
        contents: Contents::Data { object, key },
    };
    let mut files: Vec<TreeFile> = values.all.into_iter().enumerate().map(file).collect();
    files.sort_by(|one, other| one.path.cmp(&other.path));
    let tree = Tree { root: TreeRoot::Secrets, path: TREE.map(str::to_owned).to_vec(), files, fs_group: None };
    let tree = parent.mount(findings, &of_values, tree);
    // A limit, since memory volumes have none: the file, and its successor while it is written again.
    let memory = json!({"name": env, "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}});
    let helper = json!({"name": of_helper, "hostPath": {"path": helper, "type": "File"}});
    for volume in [memory, tree, helper] {
        let end = items(spec, "volumes").len();
        insert(spec, "volumes", end, volume);
    }
    findings.note(Note::EnvFile);
    Ok(())
}

fn insert(spec: &mut Value, list: &str, at: usize, item: Value) {
    match spec.get_mut(list).and_then(Value::as_array_mut) {
        Some(list) => list.insert(at, item),
        None => set(spec, list, Value::Array(vec![item])),
    }
}

/// First in the list, before any container that may want a value.
///
/// Image, user and labels are those of the first container that reads a value: what that one may do as this user, this
/// one may. It gets nothing else of it, since it reads files that all may read and writes where all may write.
fn init_container(parent: &Parent<'_>, spec: &Value, [env, values, helper]: [&str; 3]) -> Value {
    let reads = |container: &&Value| {
        items(container, "env").iter().any(|variable| {
            let source = variable.get("valueFrom").and_then(|source| source.get("fileKeyRef"));
            source.and_then(|source| text(source, "volumeName")) == Some(env)
        })
    };
    let all = || items(spec, "initContainers").iter().chain(items(spec, "containers"));
    let model = all().find(reads).unwrap_or(&Value::Null);
    let name = free("ckpt-db-env", |name| all().any(|container| text(container, "name") == Some(name)));

    let mut container = object([
        ("name", name.into()),
        ("command", json!([HELPER, "env-file", VALUES, format!("{OUTPUT}/{}", env_file::FILE_NAME)])),
        // An image's own may be closed to the user.
        ("workingDir", "/".into()),
        ("securityContext", security_context(parent.pod, model)),
        (
            "volumeMounts",
            json!([
                {"name": helper, "mountPath": HELPER, "readOnly": true},
                {"name": values, "mountPath": VALUES, "readOnly": true},
                {"name": env, "mountPath": OUTPUT},
            ]),
        ),
    ]);
    let mut copy = |field| {
        if let Some(value) = model.get(field) {
            set(&mut container, field, value.clone());
        }
    };
    copy("image");
    copy("imagePullPolicy");
    // Without any, requests are zero. Where the parent's are kept, those of one of its containers change neither what the
    // pod needs nor its QoS class.
    if parent.settings.keep_requests {
        copy("resources");
    }
    container
}

fn security_context(pod: &ParentPod, model: &Value) -> Value {
    let none = Value::Object(Map::new());
    let own = model.get("securityContext").unwrap_or(&none);
    let of_pod = pod.spec().get("securityContext").unwrap_or(&none);
    let mut context = object([
        ("allowPrivilegeEscalation", json!(false)),
        ("capabilities", json!({"drop": ["ALL"]})),
        ("readOnlyRootFilesystem", json!(true)),
    ]);
    for field in ["runAsUser", "runAsGroup", "runAsNonRoot", "seLinuxOptions"] {
        if let Some(value) = own.get(field) {
            set(&mut context, field, value.clone());
        }
    }
    // A profile of the node's own is made for the pod's program, and may stop this one.
    for field in ["seccompProfile", "appArmorProfile"] {
        let profile = own.get(field).or_else(|| of_pod.get(field));
        if profile.and_then(|profile| text(profile, "type")) == Some("Localhost") {
            set(&mut context, field, json!({"type": "RuntimeDefault"}));
        } else if let Some(profile) = own.get(field) {
            set(&mut context, field, profile.clone());
        }
    }
    context
}
