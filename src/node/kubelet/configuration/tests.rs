//! Flags, drop-ins and files, and which of them counts.

use super::super::process::tests::FakeProc;
use super::*;

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn drop_in(text: &str) -> String {
    format!("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n{text}\n")
}

fn kubelet(arguments: &[&str]) -> Process {
    let arguments = std::iter::once(&"/usr/bin/kubelet").chain(arguments).map(|word| (*word).to_owned()).collect();
    Process { pid: 9, since_ms: 1, arguments, kind: Kind::Kubelet }
}

#[test]
fn static_pod_path_of_a_document() {
    type Row = (&'static [u8], Result<Option<String>, String>);
    let some = |path: &str| Ok(Some(path.to_owned()));
    let bad = |what: &str| Err(format!("it is no kubelet configuration{what}"));
    #[rustfmt::skip]
    let rows: [Row; 11] = [
        (b"kind: KubeletConfiguration\nstaticPodPath: /etc/kubernetes/manifests\n", some("/etc/kubernetes/manifests")),
        (b"{\"staticPodPath\": \"/m\", \"authentication\": {\"anonymous\": {}}}",   some("/m")),
        (b"failSwapOn: true\n",                        Ok(None)),
        (b"staticPodPath: \"\"\n",                     some("")),
        (b"staticPodPath: null\n",                     Ok(None)),
        (b"staticPodPath: /m\r\nmaxPods: 110\r\n",     some("/m")),
        (b"staticPodPath: [/m]\n",                     bad(" (line 1, column 16)")),
        (b"a: b\nc: }\n",                              bad(" (line 2, column 4)")),
        (b"\xff\xfe",                                  Err("it is not UTF-8".to_owned())),
        (b"- a\n",                                     bad(" (line 1, column 1)")),
        (b"staticPodURLHeader: {token: [canary]}\nmaxPods: canary\n", bad(" (line 2, column 10)")),
    ];
    for (text, want) in rows {
        let found = parse(text).map(|document| document.static_pod_path.flatten());
        assert_eq!(found, want, "{}", String::from_utf8_lossy(text));
    }
}

/// Flags before drop-ins before the file, as the kubelet has it; drop-ins by name.
#[test]
fn what_counts_of_flags_drop_ins_and_the_file() {
    type Row = (&'static [&'static str], Option<&'static str>, Option<&'static str>, u32);
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    write(root, "c.yaml", "staticPodPath: /file\nmaxPods: 11\ncontainerRuntimeEndpoint: unix:///file\n");
    write(root, "etc/k/relative.yaml", "staticPodPath: pods\n");
    write(root, "empty.yaml", "kind: KubeletConfiguration\n");
    write(root, "d/10.conf", &drop_in("staticPodPath: /ten\nmaxPods: 12"));
    write(root, "d/20.conf", &drop_in("staticPodPath: /twenty"));
    write(root, "d/30.yaml", "not one: [");
    write(root, "sub/10.conf", &drop_in("staticPodPath: /ten"));
    write(root, "sub/15/x.conf", &drop_in("staticPodPath: /inner\nmaxPods: 15"));
    write(root, "sub/20.conf", &drop_in("maxPods: 20"));
    write(root, "null/a.conf", &drop_in("staticPodPath: null\nmaxPods: null\ncontainerRuntimeEndpoint: null"));
    write(root, "off/a.conf", &drop_in("staticPodPath: \"\""));
    write(root, "relative/a.conf", &drop_in("staticPodPath: pods"));
    write(root, "none/readme", "");
    #[rustfmt::skip]
    let rows: [Row; 22] = [
        // flags                                                              staticPodPath     endpoint             maxPods
        (&[],                                                                 None,             None,                110),
        (&["--config=/c.yaml"],                                               Some("/file"),    Some("unix:///file"), 11),
        (&["--config", "c.yaml"],                                             Some("/file"),    Some("unix:///file"), 11),
        (&["--config="],                                                      None,             None,                110),
        (&["--config=/empty.yaml"],                                           None,             None,                110),
        (&["--config=/etc/k/relative.yaml"],                                  Some("/etc/k/pods"), None,             110),
        (&["--config=/c.yaml", "--config-dir=/d"],                            Some("/twenty"),  Some("unix:///file"), 12),
        (&["--config=/c.yaml", "--config-dir=/sub"],                          Some("/inner"),   Some("unix:///file"), 20),
        (&["--config=/c.yaml", "--config-dir=/null"],                         None,             None,                110),
        (&["--config=/c.yaml", "--config-dir=/off"],                          None,             Some("unix:///file"), 11),
        (&["--config=/c.yaml", "--config-dir=/none"],                         Some("/file"),    Some("unix:///file"), 11),
        (&["--config=/etc/k/relative.yaml", "--config-dir=/relative"],        Some("/pods"),    None,                110),
        (&["--config-dir=/d"],                                                Some("/twenty"),  None,                 12),
        (&["--config-dir=d" ],                                                Some("/twenty"),  None,                 12),
        (&["--pod-manifest-path=/flag"],                                      Some("/flag"),    None,                110),
        (&["--pod-manifest-path=flag"],                                       Some("/flag"),    None,                110),
        (&["--pod-manifest-path=/flag", "--config=/c.yaml"],                  Some("/flag"),    Some("unix:///file"), 11),
        (&["--pod-manifest-path=/flag", "--config=/c.yaml", "--config-dir=/d"], Some("/flag"),  Some("unix:///file"), 12),
        (&["--pod-manifest-path=", "--config=/c.yaml"],                       None,             Some("unix:///file"), 11),
        (&["--container-runtime-endpoint=unix:///flag", "--config=/c.yaml"],  Some("/file"),    Some("unix:///flag"), 11),
        (&["--max-pods=5", "--config=/c.yaml", "--config-dir=/d"],            Some("/twenty"),  Some("unix:///file"), 5),
        (&["--max-pods=many", "--config=/c.yaml"],                            Some("/file"),    Some("unix:///file"), 11),
    ];
    for (flags, path, endpoint, max_pods) in rows {
        let found = of_process(root, &kubelet(flags));
        assert_eq!(found.static_pod_path, Fact::Known(path.map(PathBuf::from)), "{flags:?}");
        assert_eq!(found.container_runtime_endpoint, Fact::Known(endpoint.map(str::to_owned)), "{flags:?}");
        assert_eq!(found.max_pods, Fact::Known(max_pods), "{flags:?}");
    }
}

/// What flags say is known even where the files can't be read.
#[test]
fn files_that_cannot_be_read() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    write(root, "c.yaml", "staticPodPath: /file\n");
    write(root, "broken.yaml", "a: [\n");
    write(root, "huge.yaml", &"#".repeat(2 * 1024 * 1024));
    write(root, "nameless/a.conf", "staticPodPath: /x\n");
    write(root, "other/a.conf", "apiVersion: v1\nkind: KubeletConfiguration\nstaticPodPath: /x\n");
    write(root, "brokendir/a.conf", "a: [\n");
    std::fs::create_dir(root.join("fifo")).unwrap();
    let fifo = root.join("fifo/a.conf");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    std::os::unix::fs::symlink("loop", root.join("loop")).unwrap();
    #[rustfmt::skip]
    let rows: [(&[&str], &str); 10] = [
        (&["--config=/absent.yaml"],                            "absent.yaml: there is no such file"),
        (&["--config=/broken.yaml"],                            "broken.yaml: it is no kubelet configuration (line"),
        (&["--config=/huge.yaml"],                              "huge.yaml: it is larger than"),
        (&["--config=/fifo/a.conf"],                            "a.conf: it is a FIFO"),
        (&["--config=/loop"],                                   "cannot read"),
        (&["--config=/c.yaml", "--config-dir=/absent"],         "cannot read"),
        (&["--config=/c.yaml", "--config-dir=/nameless"],       "nameless/a.conf: it is no KubeletConfiguration of"),
        (&["--config=/c.yaml", "--config-dir=/other"],          "other/a.conf: it is no KubeletConfiguration of"),
        (&["--config=/c.yaml", "--config-dir=/brokendir"],      "brokendir/a.conf: it is no kubelet configuration (line"),
        (&["--config=/c.yaml", "--config-dir=/fifo"],           "a.conf: it is a FIFO"),
    ];
    for (flags, why) in rows {
        let found = of_process(root, &kubelet(flags));
        for fact in [found.static_pod_path.clone().map_known(drop), found.max_pods.clone().map_known(drop)] {
            assert!(matches!(&fact, Fact::Unknown(reason) if reason.contains(why)), "{flags:?} {fact:?}");
        }
        let with_flags = [flags, &["--pod-manifest-path=/m", "--root-dir=/r"]].concat();
        let found = of_process(root, &kubelet(&with_flags));
        assert_eq!(found.static_pod_path, Fact::Known(Some("/m".into())));
        assert_eq!(found.root_dir, Path::new("/r"));
    }
}

trait MapKnown<T> {
    fn map_known<U>(self, map: impl FnOnce(T) -> U) -> Fact<U>;
}

impl<T> MapKnown<T> for Fact<T> {
    fn map_known<U>(self, map: impl FnOnce(T) -> U) -> Fact<U> {
        match self {
            Fact::Known(value) => Fact::Known(map(value)),
            Fact::Unknown(why) => Fact::Unknown(why),
        }
    }
}

/// The one that runs, else the one that systemd would start, else the usual places.
#[test]
fn where_the_command_line_comes_from() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let unknown = |found: &Configuration, what: &str| {
        assert!(matches!(&found.static_pod_path, Fact::Unknown(why) if why.contains(what)), "{found:?}");
    };
    let path = || match used(root).static_pod_path {
        Fact::Known(path) => path.map_or_else(|| "none".to_owned(), |path| path.display().to_string()),
        Fact::Unknown(why) => panic!("{why}"),
    };
    unknown(&used(root), "no configuration of a kubelet was found");
    assert_eq!(used(root).root_dir, Path::new("/var/lib/kubelet"));

    write(root, "var/lib/kubelet/kubeadm-flags.env", "KUBELET_KUBEADM_ARGS=--pod-manifest-path=/env\n");
    assert_eq!(path(), "/env");
    write(root, "etc/kubernetes/kubelet-config.yaml", "staticPodPath: /kubespray\nmaxPods: 7\n");
    assert_eq!((path().as_str(), used(root).max_pods), ("/env", Fact::Known(7)));
    write(root, "var/lib/kubelet/kubeadm-flags.env", "KUBELET_KUBEADM_ARGS=--root-dir=/r\n");
    assert_eq!((path().as_str(), used(root).root_dir.to_str()), ("/kubespray", Some("/r")));
    write(root, USUAL[0].trim_start_matches('/'), "staticPodPath: /kubeadm\n");
    assert_eq!(path(), "/kubeadm");

    write(root, "unit.yaml", "staticPodPath: /unit\n");
    let unit = "etc/systemd/system/kubelet.service";
    write(root, unit, "[Service]\nExecStart=/usr/bin/kubelet --config=/unit.yaml $MORE\n");
    assert_eq!(path(), "/unit");
    write(root, unit, "[Service]\nExecStart=/usr/bin/kubelet $MORE\n");
    assert_eq!(path(), "/kubeadm", "--config may be in what is missing");
    write(root, unit, "[Service]\nExecStart=/usr/bin/kubelet --v=2\n");
    assert_eq!((path().as_str(), used(root).file), ("none", None), "all is known, and no file is among it");

    let proc = FakeProc::of_a_host(root);
    assert_eq!(path(), "none");
    proc.add(70, "kubelet", 9, &["kubelet", "--pod-manifest-path=/young"]);
    proc.add(71, "kubelet", 8, &["kubelet", "--pod-manifest-path=/old", "--hostname-override=n"]);
    assert_eq!((path().as_str(), used(root).hostname_override.as_deref()), ("/old", Some("n")));
    proc.add(71, "kubelet", 8, &["kubelet", "--pod-manifest-path=pods"]);
    std::os::unix::fs::symlink("/srv/k", proc.0.join("71/cwd")).unwrap();
    assert_eq!(path(), "/srv/k/pods", "relative to where it stands");
    std::fs::remove_file(proc.0.join("71/cmdline")).unwrap();
    assert_eq!(path(), "none", "without its command line, the unit's");

    proc.remove(70);
    proc.remove(71);
    proc.add(72, "k3s", 5, &["k3s", "agent"]);
    unknown(
        &used(root),
        "k3s runs the kubelet and does not say with which directory; it is usually /var/lib/rancher/k3s/",
    );
}

#[test]
fn verification_of_images() {
    use ImageVerification::{All, AllBut, Never, Pulled};
    let list = || vec!["docker.io/library/a".to_owned(), "r.example/*".to_owned()];
    let allowed = "imagePullCredentialsVerificationPolicy: NeverVerifyAllowlistedImages\n";
    let allow_list = "preloadedImagesVerificationAllowlist: [docker.io/library/a, r.example/*]\n";
    #[rustfmt::skip]
    let rows = [
        (String::new(),                                                        "",                                       Some(Pulled)),
        ("imagePullCredentialsVerificationPolicy: \"\"\n".to_owned(),          "",                                       Some(Pulled)),
        ("imagePullCredentialsVerificationPolicy: NeverVerifyPreloadedImages\n".to_owned(), "",                          Some(Pulled)),
        ("imagePullCredentialsVerificationPolicy: NeverVerify\n".to_owned(),   "",                                       Some(Never)),
        ("imagePullCredentialsVerificationPolicy: AlwaysVerify\n".to_owned(),  "",                                       Some(All)),
        ("imagePullCredentialsVerificationPolicy: Later\n".to_owned(),         "",                                       None),
        (allowed.to_owned(),                                                   "",                                       Some(AllBut(Vec::new()))),
        (format!("{allowed}{allow_list}"),                                     "",                                       Some(AllBut(list()))),
        (allow_list.to_owned(),                                                "",                                       Some(Pulled)),
        ("featureGates: {KubeletEnsureSecretPulledImages: false}\n".to_owned(),"",                                       Some(Never)),
        ("featureGates: {KubeletEnsureSecretPulledImages: true}\n".to_owned(), "",                                       Some(Pulled)),
        ("featureGates: {Other: false}\n".to_owned(),                          "",                                       Some(Pulled)),
        (String::new(),                                          "A=true,KubeletEnsureSecretPulledImages=false",         Some(Never)),
        (String::new(),                                          "KubeletEnsureSecretPulledImages=true",                 Some(Pulled)),
    ];
    for (text, gates, want) in rows {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "c", &format!("kind: KubeletConfiguration\n{text}"));
        let gates = format!("--feature-gates={gates}");
        let found = of_process(root.path(), &kubelet(&["--config=/c", &gates])).image_verification;
        match want {
            Some(want) => assert_eq!(found, Fact::Known(want), "{text} {gates}"),
            None => assert!(matches!(found, Fact::Unknown(_)), "{text}"),
        }
    }
    // Gates of a drop-in are joined with those of the file.
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "c", "featureGates: {KubeletEnsureSecretPulledImages: false}\n");
    write(root.path(), "d/a.conf", &drop_in("featureGates: {Other: true}"));
    let verification = || of_process(root.path(), &kubelet(&["--config=/c", "--config-dir=/d"])).image_verification;
    assert_eq!(verification(), Fact::Known(Never));
    write(root.path(), "d/b.conf", &drop_in("featureGates: {KubeletEnsureSecretPulledImages: null}"));
    assert_eq!(verification(), Fact::Known(Pulled));
}
