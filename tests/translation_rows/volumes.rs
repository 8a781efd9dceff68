//! Rows about volumes.

use ckpt_db::checkpoint::settings::{Settings, TokenPolicy};
use serde_json::{Value, json};

use super::support::*;

#[test]
fn volume_secret_and_config_map() {
    let secrets = |path: &str| format!("/etc/kubernetes/checkpoint-secrets/shop/web/{path}");
    let maps = |path: &str| format!("/etc/kubernetes/checkpoint-configmaps/shop/web/{path}");
    volume_becomes(
        json!({"secret": {"secretName": "s", "defaultMode": 420}}),
        &secrets("s"),
        &["secrets:s", "a 0644 Secret shop/s[a]", "b 0644 Secret shop/s[b]"],
    );
    volume_becomes(
        json!({"secret": {"secretName": "s", "defaultMode": 256}}),
        &secrets("kubernetes.io~secret/v"),
        &["secrets:kubernetes.io~secret/v", "a 0400 Secret shop/s[a]", "b 0400 Secret shop/s[b]"],
    );
    volume_becomes(
        json!({"secret": {"secretName": "s", "items": [{"key": "b", "path": "d/e", "mode": 384}, {"key": "a", "path": "a"}]}}),
        &secrets("kubernetes.io~secret/v"),
        &["secrets:kubernetes.io~secret/v", "a 0644 Secret shop/s[a]", "d/e 0600 Secret shop/s[b]"],
    );
    volume_becomes(json!({"secret": {"secretName": "none", "optional": true}}), &secrets("none"), &["secrets:none"]);
    volume_becomes(
        json!({"configMap": {"name": "m"}}),
        &maps("m"),
        &[
            "configmaps:m",
            "a 0644 ConfigMap shop/m[a]",
            "binary 0644 ConfigMap shop/m[binary]",
            "c 0644 ConfigMap shop/m[c]",
        ],
    );
    volume_becomes(
        json!({"configMap": {"name": "m", "optional": true, "items": [{"key": "none", "path": "x"}, {"key": "c", "path": "c"}]}}),
        &maps("kubernetes.io~configmap/v"),
        &["configmaps:kubernetes.io~configmap/v", "c 0644 ConfigMap shop/m[c]"],
    );
    #[rustfmt::skip]
    let rows = [
        (json!({"secret": {"secretName": "none"}}),           "Secret shop/none is not stored (spec.volumes[0].secret)"),
        (json!({"secret": {"secretName": "forbidden"}}),      "Secret shop/forbidden: the API server does not let this node read it (spec.volumes[0].secret); allow its credentials to get it"),
        (json!({"secret": {"secretName": "forbidden", "optional": true}}), "Secret shop/forbidden: the API server does not let this node read it (spec.volumes[0].secret); allow its credentials to get it"),
        (json!({"secret": {"secretName": "sealed"}}),         "Secret shop/sealed is sealed and no key at hand opens it"),
        (json!({"secret": {"secretName": "../x"}}),           "the stored object can't be read: spec.volumes[0].secret: metadata.name \"../x\" is not a lower-case RFC 1123 subdomain of at most 253 characters"),
        (json!({"configMap": {"name": "m", "items": [{"key": "none", "path": "x"}]}}), "ConfigMap shop/m has no key none (spec.volumes[0].configMap.items[0])"),
        (json!({"configMap": {"name": "m", "items": [{"key": "c", "path": "../x"}]}}), "volume v: path \"../x\" has a part that starts with '..'"),
        (json!({"configMap": {"name": "m", "items": [{"key": "a", "path": "x"}, {"key": "c", "path": "x/y"}]}}), "volume v: \"x\" is a file and a directory"),
        (json!({"configMap": {"name": "m", "items": [{"key": "c", "path": "c", "mode": 4095}]}}), "volume v: mode 4095 of \"c\" is not within 0 and 511"),
        (json!({"configMap": {"name": "m", "fromTheFuture": 1}}), "spec.volumes[0].configMap.fromTheFuture is not known to this version"),
        (json!({"configMap": {"name": "m", "defaultUser": 1}}),   "spec.volumes[0].configMap.defaultUser is not known to this version"),
    ];
    for (source, want) in rows {
        assert_eq!(volume_refused(source), [want]);
    }
}

#[test]
fn volumes_of_one_secret_share_a_tree_and_fs_group_is_the_pods() {
    let translation = run(
        &metadata(),
        &json!({"securityContext": {"fsGroup": 2000},
                "volumes": [{"name": "one", "secret": {"secretName": "s"}}, {"name": "two", "secret": {"secretName": "s"}}]}),
        &settings(),
    )
    .unwrap();
    assert_eq!(trees(&translation), ["secrets:s group 2000", "a 0644 Secret shop/s[a]", "b 0644 Secret shop/s[b]"]);
}

/// The volume that almost every pod has.
#[test]
fn volume_projected() {
    let kube_api_access = json!({"projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "n", "items": [{"key": "c", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}});
    let translation = volume_becomes(
        kube_api_access.clone(),
        "/etc/kubernetes/checkpoint-configmaps/shop/web/kubernetes.io~projected/v",
        &["configmaps:kubernetes.io~projected/v", "ca.crt 0644 ConfigMap shop/n[c]", "namespace 0644 \"shop\""],
    );
    assert_eq!(notes(&translation), ["token omitted from v"]);
    volume_becomes(
        json!({"projected": {"defaultMode": 288, "sources": [
            {"configMap": {"name": "m"}},
            {"configMap": {"name": "n"}},
            {"secret": {"name": "s", "items": [{"key": "a", "path": "secret/a", "mode": 256}]}},
            {"secret": {"name": "none", "optional": true}},
            {"clusterTrustBundle": {"name": "b", "path": "bundle", "optional": true}},
        ]}}),
        "/etc/kubernetes/checkpoint-secrets/shop/web/kubernetes.io~projected/v",
        &[
            "secrets:kubernetes.io~projected/v",
            "a 0440 ConfigMap shop/m[a]",
            "binary 0440 ConfigMap shop/m[binary]",
            "c 0440 ConfigMap shop/n[c]",
            "secret/a 0400 Secret shop/s[a]",
        ],
    );
    // A Secret that may come later makes it a tree of the secret root, too.
    volume_becomes(
        json!({"projected": {"sources": [{"secret": {"name": "none", "optional": true}}]}}),
        "/etc/kubernetes/checkpoint-secrets/shop/web/kubernetes.io~projected/v",
        &["secrets:kubernetes.io~projected/v"],
    );
    let source = |source: Value| json!({"projected": {"sources": [source]}});
    #[rustfmt::skip]
    let rows = [
        (source(json!({"configMap": {"name": "none"}})),                         "ConfigMap shop/none is not stored (spec.volumes[0].projected.sources[0].configMap)"),
        (source(json!({"clusterTrustBundle": {"name": "b", "path": "p"}})),      "volume v is of type projected clusterTrustBundle, which a static pod can't have"),
        (source(json!({"podCertificate": {"signerName": "s", "keyType": "k"}})), "volume v is of type projected podCertificate, which a static pod can't have"),
        (source(json!({"fromTheFuture": {}})),                                   "volume v is of type projected fromTheFuture, which a static pod can't have"),
    ];
    for (source, want) in rows {
        assert_eq!(volume_refused(source), [want]);
    }
    let refuse = Settings { tokens: TokenPolicy::Refuse, ..settings() };
    let mut volume = kube_api_access;
    volume["name"] = json!("v");
    assert_eq!(
        refused_with(&refuse, json!({ "volumes": [volume] })),
        ["volume v has a service account token, and the token policy is refuse"]
    );
}

#[test]
fn volume_downward_api() {
    let item = |path: &str, field: &str| json!({"path": path, "fieldRef": {"fieldPath": field}});
    let limit = |container: &str| json!({"path": "l", "resourceFieldRef": {"containerName": container, "resource": "limits.cpu"}});
    volume_stays(json!({"downwardAPI": {"items": [item("ns", "metadata.namespace")]}}));
    volume_stays(json!({"downwardAPI": {"items": [limit("c")]}}));
    volume_stays(
        json!({"projected": {"sources": [{"downwardAPI": {"items": [item("ns", "metadata.namespace"), limit("c")]}}]}}),
    );

    let mut metadata = metadata();
    metadata["labels"] = json!({"b": "2", "a": "1\n"});
    metadata["annotations"] = json!({"note": "n"});
    let items = json!([
        item("name", "metadata.name"), item("ns", "metadata.namespace"), item("uid", "metadata.uid"),
        item("labels", "metadata.labels"), item("one", "metadata.labels['b']"),
        {"path": "annotations", "mode": 256, "fieldRef": {"fieldPath": "metadata.annotations"}}]);
    let spec = json!({"volumes": [{"name": "v", "downwardAPI": {"items": items}}]});
    let translation = run(&metadata, &spec, &settings()).unwrap();
    assert_eq!(
        trees(&translation),
        [
            "configmaps:kubernetes.io~downward-api/v",
            r#"annotations 0400 "note=\"n\"""#,
            r#"labels 0644 "a=\"1\\n\"\nb=\"2\"""#,
            r#"name 0644 "web""#,
            r#"ns 0644 "shop""#,
            r#"one 0644 "2""#,
            r#"uid 0644 "uid-1""#,
        ]
    );
    #[rustfmt::skip]
    let rows = [
        (json!([item("x", "metadata.fromTheFuture")]),     "spec.volumes[0].downwardAPI.items[0].fieldRef.fieldPath is not known to this version"),
        (json!([item("n", "metadata.name"), limit("c")]),  "volume v is of type downwardAPI with the limit of a container that sets none, which a static pod can't have"),
        (json!([limit("none")]),                           "the stored object can't be read: spec.volumes[0].downwardAPI.items[0].resourceFieldRef: containerName names no container"),
    ];
    for (items, want) in rows {
        assert_eq!(volume_refused(json!({"downwardAPI": {"items": items}})), [want]);
    }
}

#[test]
fn volumes_that_stay() {
    #[rustfmt::skip]
    let rows = [
        json!({"emptyDir": {"medium": "Memory", "fromTheFuture": 1}}),
        json!({"hostPath": {"path": "/data", "type": "Directory"}}),
        json!({"nfs": {"server": "s", "path": "/"}}),
        json!({"image": {"reference": "i:1", "pullPolicy": "Never"}}),
        json!({"iscsi": {"iqn": "i", "lun": 0, "targetPortal": "p"}}),
        json!({"fc": {"wwids": ["w"]}}),
        json!({"rbd": {"image": "i", "monitors": ["m"]}}),
        json!({"cephfs": {"monitors": ["m"]}}),
        json!({"flexVolume": {"driver": "d"}}),
    ];
    for source in rows {
        volume_stays(source);
    }
    becomes(json!({"volumes": [{"name": "v"}]}), json!({"volumes": [{"name": "v", "emptyDir": {}}]}));
    becomes(json!({"volumes": [{"name": "v", "emptyDir": null}]}), json!({"volumes": [{"name": "v", "emptyDir": {}}]}));
    becomes(
        json!({"volumes": [{"name": "v", "image": {"reference": "i"}}]}),
        json!({"volumes": [{"name": "v", "image": {"reference": "i", "pullPolicy": "IfNotPresent"}}]}),
    );
}

#[test]
fn volumes_that_need_the_api_server() {
    let secret_ref = json!({"name": "s"});
    #[rustfmt::skip]
    let rows = [
        (json!({"persistentVolumeClaim": {"claimName": "c"}}),                            "persistentVolumeClaim"),
        (json!({"csi": {"driver": "d"}}),                                                 "csi"),
        (json!({"ephemeral": {}}),                                                        "ephemeral"),
        (json!({"azureFile": {"secretName": "s", "shareName": "h"}}),                     "azureFile"),
        (json!({"glusterfs": {"endpoints": "e", "path": "p"}}),                           "glusterfs"),
        (json!({"awsElasticBlockStore": {"volumeID": "v"}}),                              "awsElasticBlockStore"),
        (json!({"iscsi": {"iqn": "i", "lun": 0, "targetPortal": "p", "secretRef": secret_ref}}), "iscsi with a secretRef"),
        (json!({"rbd": {"image": "i", "monitors": ["m"], "secretRef": secret_ref}}),      "rbd with a secretRef"),
        (json!({"cephfs": {"monitors": ["m"], "secretRef": secret_ref}}),                 "cephfs with a secretRef"),
        (json!({"flexVolume": {"driver": "d", "secretRef": secret_ref}}),                 "flexVolume with a secretRef"),
        (json!({"scaleIO": {"gateway": "g", "system": "s", "secretRef": secret_ref}}),    "scaleIO"),
        (json!({"storageos": {"secretRef": secret_ref}}),                                 "storageos"),
        (json!({"fromTheFuture": {}}),                                                    "fromTheFuture"),
        (json!({"emptyDir": {}, "hostPath": {"path": "/x"}}),                             "emptyDir and hostPath"),
    ];
    for (source, kind) in rows {
        assert_eq!(volume_refused(source), [format!("volume v is of type {kind}, which a static pod can't have")]);
    }
}
