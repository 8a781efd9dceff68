//! Rows about values of Secrets that go through an env file (`secretEnv: envFile`).

use ckpt_db::checkpoint::env_file::NoHelper;
use ckpt_db::checkpoint::settings::{KubeletVersion, SecretEnv, Settings};
use ckpt_db::checkpoint::translate::Translation;
use serde_json::{Value, json};

use super::support::*;

const HELPER: &str = "/opt/bin/ckpt-db";

fn with(secret_env: SecretEnv) -> Settings {
    let kubelet_version = Some(KubeletVersion { major: 1, minor: 35 });
    Settings { secret_env, kubelet_version, env_file_helper: Ok(HELPER.to_owned()), ..settings() }
}

fn env_file() -> Settings {
    with(SecretEnv::EnvFile)
}

fn from_secret(variable: &str, name: &str, key: &str) -> Value {
    json!({"name": variable, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}})
}

fn from_file(variable: &str, key: &str) -> Value {
    json!({"name": variable,
        "valueFrom": {"fileKeyRef": {"volumeName": "ckpt-db-env", "path": "secrets", "key": key}}})
}

/// The init container with these members beside, or in place of, what it always has.
fn helper(members: Value) -> Value {
    let mut container = json!({
        "name": "ckpt-db-env", "image": "i:1", "workingDir": "/",
        "command": ["/.ckpt-db/ckpt-db", "env-file", "/.ckpt-db/values", "/.ckpt-db/env/secrets"],
        "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true},
        "volumeMounts": [
            {"name": "ckpt-db-helper", "mountPath": "/.ckpt-db/ckpt-db", "readOnly": true},
            {"name": "ckpt-db-values", "mountPath": "/.ckpt-db/values", "readOnly": true},
            {"name": "ckpt-db-env", "mountPath": "/.ckpt-db/env"},
        ],
    });
    for (member, value) in members.as_object().unwrap() {
        container[member] = value.clone();
    }
    container
}

fn volumes() -> Value {
    json!([
        {"name": "ckpt-db-env", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "ckpt-db-values", "hostPath": {
            "path": "/etc/kubernetes/checkpoint-secrets/shop/web/ckpt-db~env/values", "type": "Directory"}},
        {"name": "ckpt-db-helper", "hostPath": {"path": HELPER, "type": "File"}},
    ])
}

/// The only container's variables become these.
#[track_caller]
fn variables_become(members: Value, env: Value) -> Translation {
    let full = |members: &Value| {
        let mut container = json!({"name": "c", "image": "i:1"});
        for (member, value) in members.as_object().unwrap() {
            container[member] = value.clone();
        }
        container
    };
    let translation = becomes_with(
        &env_file(),
        json!({"containers": [full(&members)]}),
        json!({"containers": [full(&json!({ "env": env }))], "initContainers": [helper(json!({}))], "volumes": volumes()}),
    );
    assert!(!translation.rendering.manifest.carries_secret);
    assert_eq!(notes(&translation), ["Secret values through an env file in memory"]);
    translation
}

#[test]
fn a_variable_names_the_file_and_the_file_names_the_secret() {
    let translation = variables_become(json!({"env": [from_secret("A", "s", "a")]}), json!([from_file("A", "V1")]));
    assert_eq!(trees(&translation), ["secrets:ckpt-db~env/values", "V1 0444 Secret shop/s[a]"]);
}

/// Order and precedence are those of any other value; each value stands in the file once.
#[test]
fn variables() {
    let secret = json!({"secretRef": {"name": "s"}});
    #[rustfmt::skip]
    let rows = [
        // envFrom: each key a variable
        (json!({"envFrom": [secret]}),
         json!([from_file("a", "V1"), from_file("b", "V2")])),
        (json!({"envFrom": [{"prefix": "P_", "secretRef": {"name": "s"}}]}),
         json!([from_file("P_a", "V1"), from_file("P_b", "V2")])),
        // later wins, and what loses is not in the file
        (json!({"envFrom": [secret, {"configMapRef": {"name": "m"}}]}),
         json!([{"name": "a", "value": "from-m"}, from_file("b", "V1"), {"name": "c", "value": "see"}])),
        (json!({"envFrom": [secret], "env": [{"name": "a", "value": "own"}]}),
         json!([from_file("b", "V1"), {"name": "a", "value": "own"}])),
        // the same value twice
        (json!({"envFrom": [secret], "env": [from_secret("B", "s", "b")]}),
         json!([from_file("a", "V1"), from_file("b", "V2"), from_file("B", "V2")])),
        // expanded by the kubelet when it reads the file, before and after, and in the place of the parent's entry
        (json!({"env": [{"name": "X", "value": "$(A)"}, from_secret("A", "s", "a"), {"name": "URL", "value": "x://$(A)@h"}]}),
         json!([{"name": "X", "value": "$(A)"}, from_file("A", "V1"), {"name": "URL", "value": "x://$(A)@h"}])),
        // what is referred to before it is overridden stays
        (json!({"envFrom": [secret], "env": [{"name": "X", "value": "$(a)"}, {"name": "a", "value": "own"}]}),
         json!([from_file("a", "V1"), from_file("b", "V2"), {"name": "X", "value": "$(a)"}, {"name": "a", "value": "own"}])),
        // an empty value, which the kubelet would take for an absent key, stands in the manifest
        (json!({"env": [from_secret("E", "hard", "empty"), from_secret("F", "hard", "fine")]}),
         json!([{"name": "E", "value": ""}, from_file("F", "V1")])),
    ];
    for (parent, env) in rows {
        variables_become(parent, env);
    }
}

/// First of all, with the image and the user of the first container that reads a value.
#[test]
fn init_containers_and_sidecars_find_the_file_too() {
    let reads = |name: &str, image: &str| json!({"name": name, "image": image, "env": [from_secret("A", "s", "a")]});
    let read = |name: &str, image: &str| json!({"name": name, "image": image, "env": [from_file("A", "V1")]});
    let mut sidecar = [reads("proxy", "i:2"), read("proxy", "i:2")];
    sidecar.iter_mut().for_each(|container| container["restartPolicy"] = json!("Always"));
    let [sidecar, sidecar_copy] = sidecar;
    let other = json!({"name": "other", "image": "i:3"});
    becomes_with(
        &env_file(),
        json!({"initContainers": [other, sidecar], "containers": [reads("c", "i:1")]}),
        json!({
            "initContainers": [helper(json!({"image": "i:2"})), other, sidecar_copy],
            "containers": [read("c", "i:1")],
            "volumes": volumes(),
        }),
    );
}

/// The user and the labels of its model, and no privilege of it.
#[test]
fn security_contexts() {
    let locked = |members: Value| {
        let mut context = helper(json!({}))["securityContext"].clone();
        context.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        context
    };
    let local = json!({"type": "Localhost", "localhostProfile": "app.json"});
    let default = json!({"type": "RuntimeDefault"});
    #[rustfmt::skip]
    let rows = [
        // of the pod, of the container, of the helper
        (json!(null), json!(null), json!({})),
        (json!({"runAsUser": 1000, "fsGroup": 7}), json!(null), json!({})),
        (json!(null), json!({"runAsUser": 65532, "runAsGroup": 1, "runAsNonRoot": true}),
                      json!({"runAsUser": 65532, "runAsGroup": 1, "runAsNonRoot": true})),
        (json!(null), json!({"privileged": true}), json!({})),
        (json!(null), json!({"capabilities": {"add": ["SYS_ADMIN"]}, "procMount": "Unmasked"}), json!({})),
        (json!(null), json!({"seLinuxOptions": {"level": "s0:c1,c2"}}), json!({"seLinuxOptions": {"level": "s0:c1,c2"}})),
        (json!(null), json!({"seccompProfile": default}), json!({"seccompProfile": default})),
        // a profile of the node's own was made for another program
        (json!(null), json!({"seccompProfile": local}), json!({"seccompProfile": default})),
        (json!({"seccompProfile": local}), json!(null), json!({"seccompProfile": default})),
        (json!({"appArmorProfile": local}), json!({"appArmorProfile": default}), json!({"appArmorProfile": default})),
        (json!({"appArmorProfile": local}), json!(null), json!({"appArmorProfile": default})),
    ];
    for (of_pod, of_container, of_helper) in rows {
        let spec = json!({"securityContext": of_pod, "containers": [
            {"name": "c", "image": "i:1", "securityContext": of_container, "env": [from_secret("A", "s", "a")]}]});
        let copy = manifest(&run(&metadata(), &spec, &env_file()).ok().unwrap());
        assert_eq!(copy["spec"]["initContainers"][0]["securityContext"], locked(of_helper), "{of_pod} {of_container}");
    }
}

#[test]
fn names_image_and_resources() {
    let resources = json!({"limits": {"cpu": "2"}, "requests": {"cpu": "1"}});
    let spec = json!({
        "containers": [{"name": "ckpt-db-env", "image": "i:latest", "resources": resources,
            "volumeMounts": [{"name": "ckpt-db-env", "mountPath": "/v"}], "env": [from_secret("A", "s", "a")]}],
        "initContainers": [{"name": "ckpt-db-env-2", "image": "i:1"}],
        "volumes": [{"name": "ckpt-db-env", "emptyDir": {}}, {"name": "ckpt-db-helper", "emptyDir": {}}],
    });
    let copy = |settings: &Settings| manifest(&run(&metadata(), &spec, settings).ok().unwrap())["spec"].clone();
    let zero = copy(&env_file());
    let helper = &zero["initContainers"][0];
    assert_eq!(helper["name"], "ckpt-db-env-3");
    assert_eq!((&helper["image"], &helper["imagePullPolicy"]), (&json!("i:latest"), &json!("IfNotPresent")));
    assert_eq!(helper["resources"], json!(null));
    let mounted: Vec<&Value> = helper["volumeMounts"].as_array().unwrap().iter().map(|mount| &mount["name"]).collect();
    assert_eq!(mounted, ["ckpt-db-helper-2", "ckpt-db-values", "ckpt-db-env-2"]);
    assert_eq!(zero["containers"][0]["env"][0]["valueFrom"]["fileKeyRef"]["volumeName"], "ckpt-db-env-2");

    let kept = copy(&Settings { keep_requests: true, ..env_file() });
    assert_eq!(kept["initContainers"][0]["resources"], resources);
}

/// Nothing is added for a pod without such a value.
#[test]
fn a_pod_without_secret_values_stays_as_it_is() {
    for env in [json!([{"name": "A", "value": "1"}]), json!([from_secret("E", "hard", "empty")])] {
        let container = json!({"name": "c", "image": "i:1", "env": env});
        let translation = run(&metadata(), &json!({"containers": [container]}), &env_file()).ok().unwrap();
        assert_eq!(manifest(&translation)["spec"]["initContainers"], json!(null));
        assert!(notes(&translation).is_empty() && translation.rendering.trees.is_empty());
    }
}

#[test]
fn the_sizes_that_a_kubelet_takes() {
    const REFUSAL: &str = "spec.containers[0].env[0].valueFrom.secretKeyRef comes from a Secret and would be readable in the \
                           mirror pod; no env file: ";
    let env = |keys: &[&str]| keys.iter().map(|key| from_secret(&format!("A{key}"), "big", key)).collect::<Vec<_>>();
    let pod = |env: Vec<Value>| json!({"containers": [{"name": "c", "image": "i:1", "env": env}]});
    assert!(run(&metadata(), &pod(env(&["1", "2"])), &env_file()).is_ok());
    // A value counts once.
    assert!(run(&metadata(), &pod(env(&["1", "2", "1"])), &env_file()).is_ok());
    let said = refused_with(&env_file(), pod(env(&["1", "2", "3"])));
    assert!(said[0].starts_with(&format!("{REFUSAL}the values have over 64 KiB together")), "{said:?}");
    let said = refused_with(&env_file(), pod(env(&["over"])));
    assert!(said[0].starts_with(&format!("{REFUSAL}the value of variable Aover of spec.containers[0]")), "{said:?}");
}

/// What becomes of a pod, by the setting, the kubelet, the program, the pod's values, and the annotation.
#[test]
fn where_no_env_file_is_possible() {
    use SecretEnv::{Auto, EnvFile, Literal, Refuse};
    const FILE: &str = "EnvFile: Secret values through an env file in memory";
    const CLEAR: &str = "ClearEnv: Secret values in clear in the manifest";
    const OLD: &str = "the kubelet is 1.34, and reads env files since 1.35";
    const UNKNOWN: &str = "the kubelet's version is not known, and it reads env files since 1.35";
    const NONE: &str = "no program is given that could write it (--env-file-helper)";
    const POD: &str =
        "the agent runs in a pod and does not know where the node has a static ckpt-db (--env-file-helper)";
    const DYNAMIC: &str = "this ckpt-db is not linked statically, and has to run in the pod's own image";
    const VALUE: &str =
        "the value of variable A of spec.containers[0] can't stand in one (a single quote, a CR LF, or over 32 KiB)";
    let at = |minor: u32| Some(KubeletVersion { major: 1, minor });
    let good = || Ok(HELPER.to_owned());
    let no = |problem: NoHelper| Err(problem);
    #[rustfmt::skip]
    let rows = [
        // setting, kubelet, program, key of the value; what it is for annotated pods, and for others
        (Auto,    at(36), good(),                  "fine",  FILE,                  FILE),
        (Auto,    at(35), good(),                  "fine",  FILE,                  FILE),
        (Auto,    at(34), good(),                  "fine",  "clear " ,             OLD),
        (Auto,    None,   good(),                  "fine",  "clear ",              UNKNOWN),
        (Auto,    at(35), no(NoHelper::NotGiven),  "fine",  "clear ",              NONE),
        (Auto,    at(35), no(NoHelper::InPod),     "fine",  "clear ",              POD),
        (Auto,    at(35), no(NoHelper::NotStatic), "fine",  "clear ",              DYNAMIC),
        (Auto,    at(35), good(),                  "quote", "clear ",              VALUE),
        (Auto,    at(35), good(),                  "crlf",  "clear ",              VALUE),
        (EnvFile, at(35), good(),                  "fine",  FILE,                  FILE),
        (EnvFile, None,   good(),                  "fine",  FILE,                  FILE),
        (EnvFile, at(34), good(),                  "fine",  "refused ",            OLD),
        (EnvFile, at(35), no(NoHelper::NotStatic), "fine",  "refused ",            DYNAMIC),
        (EnvFile, at(35), good(),                  "quote", "refused ",            VALUE),
        (Literal, at(35), good(),                  "fine",  CLEAR,                 CLEAR),
        (Refuse,  at(35), good(),                  "fine",  "refused",             "refused"),
    ];
    let plain = metadata();
    let mut asked = metadata();
    asked["annotations"] = json!({"checkpointer.alpha.coreos.com/checkpoint": "true"});
    let refusal = |why: Option<&str>| {
        let why = why.map(|why| format!("; no env file: {why}")).unwrap_or_default();
        format!(
            "SecretEnvRefused: spec.containers[0].env[0].valueFrom.secretKeyRef comes from a Secret and would be readable \
             in the mirror pod{why} (--secret-env=literal allows it)"
        )
    };
    for (secret_env, kubelet_version, env_file_helper, key, annotated, other) in rows {
        let settings = Settings { secret_env, kubelet_version, env_file_helper, ..settings() };
        let spec = json!({"containers": [{"name": "c", "image": "i:1", "env": [from_secret("A", "hard", key)]}]});
        let said = |metadata: &Value| match run(metadata, &spec, &settings) {
            Ok(translation) => {
                let manifest = &translation.rendering.manifest;
                let shows = ["it's", "lines"]
                    .iter()
                    .any(|part| manifest.json.expose().windows(part.len()).any(|window| window == part.as_bytes()));
                assert_eq!(manifest.carries_secret, shows || key == "crlf");
                translation.notes.iter().map(|note| format!("{}: {note}", note.code())).collect()
            }
            Err(reasons) => reasons.iter().map(|reason| format!("{}: {reason}", reason.code())).collect::<Vec<_>>(),
        };
        let want_annotated = match annotated {
            "clear " => format!("{CLEAR} (no env file: {other})"),
            "refused " => refusal(Some(other)),
            "refused" => refusal(None),
            said => said.to_owned(),
        };
        let want_other = match other {
            "refused" => refusal(None),
            FILE | CLEAR => other.to_owned(),
            why => refusal(Some(why)),
        };
        let case = format!("{secret_env:?} {kubelet_version:?} {key}");
        assert_eq!(said(&asked), [want_annotated], "{case}, annotated");
        assert_eq!(said(&plain), [want_other], "{case}");
    }
}
