//! Units as kubeadm, kubespray and others write them.

use super::*;

fn root_with(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    root
}

fn shown(files: &[(&str, &str)]) -> String {
    let command = command_line(root_with(files).path()).unwrap();
    format!("{}{}", command.arguments.join(" | "), if command.complete { "" } else { " ..." })
}

const KUBEADM_UNIT: &str = "\
[Unit]
Description=kubelet: The Kubernetes Node Agent
[Service]
ExecStart=/usr/bin/kubelet
Restart=always
[Install]
WantedBy=multi-user.target
";

const KUBEADM_DROP_IN: &str = r#"# Note: This dropin only works with kubeadm and kubelet v1.11+
[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/b.conf --kubeconfig=/k.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
"#;

#[test]
fn command_lines_of_units() {
    const UNIT: &str = "usr/lib/systemd/system/kubelet.service";
    const DROP_IN: &str = "usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf";
    const FLAGS: &str = "var/lib/kubelet/kubeadm-flags.env";
    const EXTRA: &str = "etc/default/kubelet";
    let kubeadm = "--bootstrap-kubeconfig=/b.conf | --kubeconfig=/k.conf | --config=/var/lib/kubelet/config.yaml";
    #[rustfmt::skip]
    let rows: [(&[(&str, &str)], String); 19] = [
        (&[],                                                                          " ...".to_owned()),
        (&[(UNIT, KUBEADM_UNIT)],                                                      String::new()),
        (&[(UNIT, KUBEADM_UNIT), (DROP_IN, KUBEADM_DROP_IN)],                          format!("{kubeadm} ...")),
        (&[(UNIT, KUBEADM_UNIT), (DROP_IN, KUBEADM_DROP_IN),
           (FLAGS, "KUBELET_KUBEADM_ARGS=\"--container-runtime-endpoint=unix:///r --v=2\"\n"), (EXTRA, "KUBELET_EXTRA_ARGS=\n")],
                                                                                       format!("{kubeadm} | --container-runtime-endpoint=unix:///r | --v=2")),
        // A directory of the operator's is stronger, and a later name comes later.
        (&[(UNIT, KUBEADM_UNIT), (DROP_IN, KUBEADM_DROP_IN),
           ("etc/systemd/system/kubelet.service.d/10-kubeadm.conf", "[Service]\nExecStart=\nExecStart=/k/kubelet --mine\n")],
                                                                                       "--mine".to_owned()),
        (&[(UNIT, KUBEADM_UNIT), ("etc/systemd/system/kubelet.service.d/20.conf", "[Service]\nExecStart=\nExecStart=/k/kubelet --b\n"),
           (DROP_IN, KUBEADM_DROP_IN)],                                                "--b ...".to_owned()),
        (&[(UNIT, KUBEADM_UNIT), ("etc/systemd/system/kubelet.service", "[Service]\nExecStart=/kubelet --etc\n")],
                                                                                       "--etc".to_owned()),
        (&[(UNIT, KUBEADM_UNIT), ("etc/systemd/system/kubelet.service.d/20.txt", "[Service]\nExecStart=\n")],
                                                                                       String::new()),
        // kubespray
        (&[(UNIT, "[Service]\nEnvironmentFile=-/etc/kubernetes/kubelet.env\nExecStart=/usr/local/bin/kubelet \\\n\t\t$KUBE_LOGTOSTDERR \\\n# why\n\t\t$KUBELET_ARGS\n"),
           ("etc/kubernetes/kubelet.env", "KUBE_LOGTOSTDERR=\"\"\nKUBELET_ARGS=\"--config=/c \\\n--v=2 \\\n \"\n")],
                                                                                       "--config=/c | --v=2".to_owned()),
        // Quotes, escapes, prefixes, variables inside of words.
        (&[(UNIT, "[Service]\nEnvironment=A=1 \"B=2 3\" 'C=4'\nExecStart=-/kubelet --a=${A} --b=${B} $B '--c=${C} x' --d=\\\"$$\n")],
                                                                                       "--a=1 | --b=2 3 | 2 | 3 | --c=4 x | --d=\"$".to_owned()),
        (&[(UNIT, "[Service]\nEnvironment=A=1\nEnvironment=\nExecStart=/kubelet --a=${A} --b\n")],  "--b ...".to_owned()),
        (&[(UNIT, "[Service]\nExecStart=/kubelet --hostname-override=%H --rate=5%%\n")],    "--rate=5% ...".to_owned()),
        // A file is stronger than the unit, whatever the order.
        (&[(UNIT, "[Service]\nEnvironmentFile=/e\nEnvironment=A=unit\nExecStart=/kubelet $A\n"), ("e", "A=file")],
                                                                                       "file".to_owned()),
        (&[(UNIT, "[Service]\nEnvironmentFile=/e\nEnvironmentFile=\nEnvironment=A=unit\nExecStart=/kubelet $A\n"), ("e", "A=file")],
                                                                                       "unit".to_owned()),
        // Other sections, other programs: then the usual files with flags count.
        (&[(UNIT, "[X-Mine]\nExecStart=/kubelet --not\n[Service]\nExecStart=/kubelet --yes\n")], "--yes".to_owned()),
        (&[(UNIT, "[Service]\nExecStart=/usr/bin/wrapper --config=/w\n"), (FLAGS, "KUBELET_KUBEADM_ARGS=--a\n")], "--a ...".to_owned()),
        (&[(FLAGS, "KUBELET_KUBEADM_ARGS='--a=1 --b'\nOTHER_ARGS=--no\nKUBELET_X=--no\n"), (EXTRA, "# x\nKUBELET_EXTRA_ARGS=--b=2\n")],
                                                                                       "--a=1 | --b | --b=2 ...".to_owned()),
        (&[("etc/sysconfig/kubelet", "KUBELET_EXTRA_ARGS=--red\n"), (EXTRA, "KUBELET_EXTRA_ARGS=--hat\n")], "--hat | --red ...".to_owned()),
        (&[(UNIT, "ExecStart=/kubelet --no\n[Service]\n")],                            " ...".to_owned()),
    ];
    for (files, want) in rows {
        assert_eq!(shown(files), want, "{files:#?}");
    }
}

#[test]
fn masked_units_and_drop_ins_are_not_there() {
    let root = root_with(&[
        ("usr/lib/systemd/system/kubelet.service", KUBEADM_UNIT),
        ("usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf", KUBEADM_DROP_IN),
    ]);
    let mask = |path: &str| {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink("/dev/null", path).unwrap();
    };
    mask("etc/systemd/system/kubelet.service.d/10-kubeadm.conf");
    assert_eq!(command_line(root.path()), Ok(CommandLine { arguments: vec![], complete: true }));
    mask("etc/systemd/system/kubelet.service");
    assert_eq!(command_line(root.path()), Ok(CommandLine { arguments: vec![], complete: false }));
}

#[test]
fn hostile_files_are_errors_that_name_the_file() {
    let unit = "[Service]\nEnvironmentFile=-/e\nExecStart=/kubelet $A\n";
    let root = root_with(&[("etc/systemd/system/kubelet.service", unit)]);
    let file = root.path().join("e");
    let error = || command_line(root.path()).unwrap_err();
    std::fs::write(&file, b"A=\xff").unwrap();
    assert!(error().ends_with("/e: it is not UTF-8"), "{}", error());
    std::fs::write(&file, vec![b'x'; 2 * 1024 * 1024]).unwrap();
    assert!(error().contains("larger than"));
    std::fs::remove_file(&file).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    assert!(error().contains("FIFO"));
    std::fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("e", &file).unwrap();
    assert!(error().contains("cannot read"));
}

#[test]
fn words_of_a_line() {
    #[rustfmt::skip]
    let rows: [(&str, &[&str]); 12] = [
        ("",                     &[]),
        ("  a\tb  ",             &["a", "b"]),
        ("\"a b\" c",            &["a b", "c"]),
        ("'a \"b' c",            &["a \"b", "c"]),
        ("--x=\"a b\"c",         &["--x=a bc"]),
        ("\"\"",                 &[""]),
        ("a\\ b",                &["a b"]),
        ("\"a\\\"b\"",           &["a\"b"]),
        ("'a\\b'",               &["a\\b"]),
        ("\"open a",             &["open a"]),
        ("end\\",                &["end"]),
        ("ü ß",                  &["ü", "ß"]),
    ];
    for (text, want) in rows {
        assert_eq!(words(text), want, "{text}");
    }
}
