//! What is read of a configuration file, and what is said of one that is wrong.

use std::path::Path;

use clap::CommandFactory as _;

use super::fields::{FIELDS, NO_SETTINGS, Shape, Unset};
use super::invocation::{run_options, under};
use super::settings::Settings;
use super::text::{self, option_of};
use crate::cli::Cli;
use crate::cli::reference::{same, same_between};

const HEAD: &str = "apiVersion: ckpt-db.io/v1alpha1\nkind: CheckpointerConfiguration\n";

/// The options that a text sets, or the lines of what is wrong with it.
fn read(text: &str, root: &str) -> Result<Settings, Vec<String>> {
    Settings::parse(text, &run_options(), Path::new(root)).map_err(|problems| {
        problems.iter().map(|problem| problem.at(Path::new("f")).trim_start_matches("f:").trim().to_owned()).collect()
    })
}

fn options(text: &str, root: &str) -> Vec<String> {
    let settings = read(text, root).unwrap();
    let shown = |(option, values): (&&str, &Vec<std::ffi::OsString>)| {
        let values: Vec<&str> = values.iter().map(|value| value.to_str().unwrap()).collect();
        format!("{option}={}", values.join(","))
    };
    let gates = settings.gates().iter().map(|(gate, on)| format!("gate {gate}={on}"));
    settings.options().iter().map(shown).chain(gates).collect()
}

#[test]
fn what_a_file_sets() {
    #[rustfmt::skip]
    let rows: &[(&str, &[&str])] = &[
        ("",                                                         &[]),
        ("nodeName: edge-1",                                         &["node-name=edge-1"]),
        ("nodeName:",                                                &[]),
        ("nodeName: ~",                                              &[]),
        // YAML 1.1 takes it for a boolean.
        ("activationPolicy: off",                                    &["activation-policy=off"]),
        ("activationPolicy: \"off\"",                                &["activation-policy=off"]),
        ("activationDelay: 30s",                                     &["activation-delay=30s"]),
        ("activationDelay: 90",                                      &["activation-delay=90"]),
        ("activationWave: 5",                                        &["activation-wave=5"]),
        ("keepLabels: true",                                         &["keep-labels=true"]),
        ("keepLabels: false",                                        &["keep-labels=false"]),
        ("store: /srv/store.db",                                     &["store=/srv/store.db"]),
        ("containerRuntimeEndpoint: unix:///run/c.sock",             &["container-runtime-endpoint=/run/c.sock"]),
        ("containerRuntimeEndpoint: /run/c.sock",                    &["container-runtime-endpoint=/run/c.sock"]),
        ("keepAnnotations: [a.io/x, b.io/]",                         &["keep-annotation=a.io/x,b.io/"]),
        ("keepAnnotations: []",                                      &[]),
        ("nodeKeys:\n- /a.pem\n- /b.pem",                            &["node-key=/a.pem,/b.pem"]),
        ("featureGates: {Checkpointing: true}",                      &["gate Checkpointing=true"]),
        ("featureGates:\n  AllAlpha: true\n  Checkpointing: false",  &["gate AllAlpha=true", "gate Checkpointing=false"]),
        ("featureGates: {}",                                         &[]),
        ("logging: {format: json, verbosity: 2}",                    &["logging-format=json", "v=2"]),
        ("logging:\n  vmodule: [source=4, store=2]",                 &["vmodule=source=4,store=2"]),
        ("logging:",                                                 &[]),
    ];
    for (text, want) in rows {
        assert_eq!(options(&format!("{HEAD}{text}\n"), "/"), *want, "{text}");
    }
    let json = r#"{"apiVersion": "ckpt-db.io/v1alpha1", "kind": "CheckpointerConfiguration", "activationWave": 3}"#;
    assert_eq!(options(json, "/"), ["activation-wave=3"]);
}

#[test]
fn paths_lie_below_the_root() {
    let text =
        format!("{HEAD}store: /srv/s.db\nnodeKeys: [/k.pem]\ncontainerRuntimeEndpoint: unix:///c\nnodeName: /n\n");
    let want = ["container-runtime-endpoint=/mnt/c", "node-key=/mnt/k.pem", "node-name=/n", "store=/mnt/srv/s.db"];
    assert_eq!(options(&text, "/mnt"), want);
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    #[rustfmt::skip]
    let rows: &[(&str, &[&str])] = &[
        ("activationDelays: 3s",         &["3: unknown field \"activationDelays\" (did you mean activationDelay?)"]),
        ("activation-delay: 3s",         &["3: unknown field \"activation-delay\" (did you mean activationDelay?)"]),
        ("staticPods: /x",               &["3: unknown field \"staticPods\""]),
        ("activationPolicy: al",         &["3: activationPolicy: \"al\" is none of off, annotated, all (did you mean all?)"]),
        ("activationDelay: soon",        &["3: activationDelay: \"soon\" is no duration such as 30s, 5m or 1h30m"]),
        ("activationWave: 0",            &["3: activationWave: 0 is not in 1..=65535"]),
        ("activationWave: many",         &["3: activationWave: invalid digit found in string"]),
        ("keepLabels: yes",              &["3: keepLabels: \"yes\" is none of true, false"]),
        ("keepLabels: [true]",           &["3: keepLabels is a single value, and this is a list"]),
        ("store: s.db",                  &["3: store: \"s.db\" is no absolute path"]),
        ("store: {file: /s.db}",         &["3: store is a single value, and this is a mapping"]),
        ("nodeKeys: /k.pem",             &["3: nodeKeys is a list, and this is a single value"]),
        ("nodeKeys:\n- /k.pem\n- k.pem\n- [x]",
            &["5: nodeKeys: \"k.pem\" is no absolute path", "6: an item of nodeKeys is a single value, and this is a list"]),
        ("featureGates: Checkpointing=true", &["3: featureGates is a mapping such as {Checkpointing: true}, and this is a single value"]),
        ("featureGates:\n  Checkpointing: yes", &["4: featureGates.Checkpointing is \"yes\", which is neither true nor false"]),
        ("featureGates:\n  Chekpointing: true",
            &["4: featureGates: unrecognized feature gate: Chekpointing (did you mean Checkpointing?); the known ones are \
               AllAlpha, AllBeta, Checkpointing"]),
        ("logging: json",                &["3: logging is a mapping of fields, and this is a single value"]),
        ("logging:\n  fromat: json",     &["4: unknown field \"logging.fromat\" (did you mean format?)"]),
        ("logging.format: json",         &["3: unknown field \"logging.format\""]),
        // All of it at once, by line.
        ("store: s.db\nnodeNames: x\nactivationWave: 0",
            &["3: store: \"s.db\" is no absolute path", "4: unknown field \"nodeNames\" (did you mean nodeName?)",
              "5: activationWave: 0 is not in 1..=65535"]),
        ("nodeName: a\nnodeName: b",     &["4: field \"nodeName\" stands twice in one mapping"]),
        ("nodeName: [a",                 &["3: invalid YAML: unclosed bracket '['"]),
    ];
    for (text, want) in rows {
        assert_eq!(read(&format!("{HEAD}{text}\n"), "/").unwrap_err(), *want, "{text}");
    }
}

#[test]
fn whose_file_it_is() {
    let api = "apiVersion: ckpt-db.io/v1alpha1";
    let kind = "kind: CheckpointerConfiguration";
    #[rustfmt::skip]
    let rows: &[(&str, &[&str])] = &[
        ("",              &["apiVersion is missing: write `apiVersion: ckpt-db.io/v1alpha1`",
                            "kind is missing: write `kind: CheckpointerConfiguration`"]),
        ("# nothing\n",   &["apiVersion is missing: write `apiVersion: ckpt-db.io/v1alpha1`",
                            "kind is missing: write `kind: CheckpointerConfiguration`"]),
        (api,             &["kind is missing: write `kind: CheckpointerConfiguration`"]),
        ("- a",           &["1: a CheckpointerConfiguration is a mapping of fields, and this is a list"]),
        ("a",             &["1: a CheckpointerConfiguration is a mapping of fields, and this is a single value"]),
    ];
    for (text, want) in rows {
        assert_eq!(read(text, "/").unwrap_err(), *want, "{text:?}");
    }
    let kubelets = "kind: KubeletConfiguration\napiVersion: kubelet.config.k8s.io/v1beta1\nstaticPodPath: /x\n";
    #[rustfmt::skip]
    assert_eq!(read(kubelets, "/").unwrap_err(), [
        "1: kind is \"KubeletConfiguration\", and this program reads CheckpointerConfiguration",
        "2: apiVersion is \"kubelet.config.k8s.io/v1beta1\", and this program reads ckpt-db.io/v1alpha1",
        "3: unknown field \"staticPodPath\"",
    ]);
    assert!(read(&format!("{api}\n{kind}\n---\nnodeName: a\n"), "/").is_err(), "there is one document");
}

/// Whoever adds an option says whether it is a setting.
#[test]
fn each_option_of_run_is_a_field_or_no_setting() {
    let run = run_options();
    let mut options: Vec<&str> = run.get_arguments().filter_map(clap::Arg::get_long).collect();
    options.sort_unstable();
    let mut known: Vec<&str> = FIELDS.iter().map(|field| field.option).chain(NO_SETTINGS.iter().copied()).collect();
    known.sort_unstable();
    assert_eq!(options, known);
    for field in FIELDS {
        // The option in camel case, in the plural where it may be given several times.
        let mut words = field.option.split('-').map(str::to_owned);
        let mut name = words.next().unwrap();
        for word in words {
            name.push_str(&word[..1].to_uppercase());
            name.push_str(&word[1..]);
        }
        let leaf = field.name.rsplit('.').next().unwrap();
        let plural = format!("{name}s");
        let grouped = field.name.contains('.');
        assert!(leaf == name || leaf == plural || grouped, "{} is called {}", field.option, field.name);
    }
}

/// What the reference and the sample say of a field is true of its option.
#[test]
fn each_default_is_that_of_the_option() {
    let run = run_options();
    for field in FIELDS {
        let option = option_of(field, &run).unwrap();
        let has = !option.get_default_values().is_empty();
        assert_eq!(has, matches!(field.default, Unset::Option), "{}", field.name);
        let many = matches!(field.shape, Shape::Values | Shape::Paths | Shape::Gates);
        let given_often = matches!(option.get_action(), clap::ArgAction::Append);
        let listed = option.get_value_delimiter().is_some();
        assert_eq!(many, given_often || listed, "{}", field.name);
        let path = matches!(field.shape, Shape::Path | Shape::Paths | Shape::Endpoint);
        let takes_path = option.get_value_parser().type_id() == std::any::TypeId::of::<std::path::PathBuf>();
        assert_eq!(path, takes_path, "{}", field.name);
    }
}

/// What is printed as the defaults says the same as no file at all.
#[test]
fn the_defaults_change_nothing() {
    let text = text::defaults(Path::new("/"));
    assert!(read(&text, "/").is_ok(), "{:?}", read(&text, "/"));
    let run = |settings: &Settings| {
        let matches = under(Cli::command(), settings).try_get_matches_from(["ckpt-db", "run"]).unwrap();
        matches.subcommand().unwrap().1.clone()
    };
    let (explicit, implied) = (run(&read(&text, "/").unwrap()), run(&Settings::default()));
    // What has no default value in the option is spelt out.
    let spelt = ["store", "admin_socket", "pod_manifest_path", "secret_root", "logging_format", "v", "vmodule"];
    for id in implied.ids().map(clap::Id::as_str).filter(|id| !spelt.contains(id)) {
        let values = |matches: &clap::ArgMatches| -> Vec<String> {
            let raw = matches.try_get_raw(id).ok().flatten();
            raw.map(|raw| raw.map(|value| value.to_string_lossy().into_owned()).collect()).unwrap_or_default()
        };
        assert_eq!(values(&explicit), values(&implied), "{id}");
    }
}

/// `dist/config.yaml` and `docs/reference/config.md` are what the program says; SNAPSHOTS=overwrite writes them.
#[test]
fn the_sample_is_true() {
    let sample = text::sample();
    same("dist/config.yaml", &sample);
    assert_eq!(options(&sample, "/"), [""; 0], "nothing is set in it");
    // Every field can be taken out of its comment.
    let lines = sample.lines().map(|line| match line.strip_prefix('#') {
        Some(field) if !field.is_empty() && (!field.starts_with(' ') || field.starts_with("  ")) => field,
        _ => line,
    });
    let bare: String = lines.map(|line| format!("{line}\n")).collect();
    let settings = read(&bare, "/").unwrap();
    assert!(settings.gates() == [("Checkpointing".to_owned(), false)]);
    let listed = FIELDS.iter().filter(|field| bare.contains(&format!("{}: [", field.name.rsplit('.').next().unwrap())));
    assert_eq!(settings.options().len(), FIELDS.len() - 1 - listed.count(), "{bare}");
}

#[test]
fn the_reference_is_true() {
    same_between("docs/reference/config.md", "fields", &text::table());
}

/// Where an option says which key is to be added, the file says what opens the store.
#[test]
fn a_key_of_the_file_opens_and_is_not_added() {
    let settings = read(&format!("{HEAD}nodeKeys: [/k.pem]\nstore: /s.db\n"), "/").unwrap();
    let matches = |arguments: &[&str]| under(Cli::command(), &settings).try_get_matches_from(arguments).unwrap();
    let matches = matches(&["ckpt-db", "key", "add", "--recovery-code"]);
    let add = matches.subcommand().unwrap().1.subcommand().unwrap().1.clone();
    let value = |id: &str| add.try_get_raw(id).ok().flatten().map(|mut raw| raw.next().unwrap().to_owned());
    assert_eq!(value("with_node_key").as_deref(), Some("/k.pem".as_ref()));
    assert_eq!(value("node_key"), None);
    assert_eq!(value("store").as_deref(), Some("/s.db".as_ref()));
    // What the file sets is no choice among the options of which one has to be given.
    assert!(under(Cli::command(), &settings).try_get_matches_from(["ckpt-db", "key", "add"]).is_err());
}
