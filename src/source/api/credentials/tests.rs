//! Kubeconfigs of all kinds, where they lie, and what is noticed of their changes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use data_encoding::BASE64;

use super::super::testing::{Authority, Issued, NOW, PAST, cluster, kubeconfig};
use super::super::token::Source;
use super::*;
use crate::crypto;

fn explicit(file: &Path) -> Result<Credentials, CredentialsError> {
    Credentials::load(&Place::Explicit(file.to_owned()))
}

fn search(root: &Path) -> Place {
    Place::Search { root: root.to_owned(), in_cluster: None }
}

fn node() -> (Authority, Issued) {
    let authority = Authority::new();
    let issued = authority.issue(&[], "system:node:n1", NOW);
    (authority, issued)
}

/// What is wrong, without the file's name.
fn wrong(result: Result<Credentials, CredentialsError>) -> String {
    match result {
        Err(CredentialsError::Bad { what, .. }) => what,
        Err(other) => panic!("{other}"),
        Ok(_) => "nothing".to_owned(),
    }
}

#[test]
fn the_kubelet_s_own_client_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, issued) = node();
    // As the kubelet writes it: key and certificate in one file, behind a link that is swapped.
    let pki = dir.path().join("pki");
    fs::create_dir(&pki).unwrap();
    fs::write(pki.join("one.pem"), format!("{}{}", issued.certificate, issued.key)).unwrap();
    symlink("one.pem", pki.join("current.pem")).unwrap();
    let user = "client-certificate: pki/current.pem, client-key: pki/current.pem";
    let file = kubeconfig(dir.path(), &cluster("https://10.0.0.1:6443/", &authority), user);

    let loaded = explicit(&file).unwrap();
    assert_eq!(loaded.server(), "https://10.0.0.1:6443");
    assert_eq!(loaded.node_name(), Some("n1"));
    assert_eq!(loaded.user(), "CN=system:node:n1,O=system:nodes (client certificate)");
    let validity = loaded.client_validity().unwrap();
    assert_eq!((validity.not_before_unix_s, validity.not_after_unix_s), (1_577_836_800, 32_472_144_000));
    assert_eq!(validity.file, pki.join("current.pem"));
    assert_eq!(loaded.files(), [file, pki.join("current.pem")]);
    assert!(loaded.warnings().is_empty());
    assert!(matches!(loaded.token, Source::None));
    // The hash that an operator gets with `openssl x509 -pubkey | openssl pkey -pubin -outform DER | sha256sum`.
    assert_eq!(loaded.cluster_ca_sha256(), [crypto::sha256(&public_key(&authority))]);
}

/// SubjectPublicKeyInfo of P-256: a fixed prefix and the point, which stands there once.
fn public_key(authority: &Authority) -> Vec<u8> {
    let prefix =
        b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";
    let at = authority.der.windows(prefix.len()).position(|window| window == prefix).unwrap();
    authority.der[at..at + 91].to_vec()
}

#[test]
fn a_rotation_is_noticed_and_a_rewrite_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, issued) = node();
    let renewed = authority.issue(&[], "system:node:n1", NOW);
    let pem = |issued: &Issued| format!("{}{}", issued.certificate, issued.key);
    fs::write(dir.path().join("1.pem"), pem(&issued)).unwrap();
    fs::write(dir.path().join("2.pem"), pem(&renewed)).unwrap();
    fs::write(dir.path().join("ca.crt"), &authority.pem).unwrap();
    fs::write(dir.path().join("token"), "t1").unwrap();
    symlink("1.pem", dir.path().join("current.pem")).unwrap();
    let user = "client-certificate: current.pem, client-key: current.pem, tokenFile: token";
    let server = |port: u16| format!("server: \"https://h:{port}\", certificate-authority: ca.crt");
    let file = kubeconfig(dir.path(), &server(1), user);
    let seen = || explicit(&file).unwrap().fingerprint();
    let first = seen();

    fs::write(dir.path().join("new.pem"), pem(&issued)).unwrap();
    fs::rename(dir.path().join("new.pem"), dir.path().join("1.pem")).unwrap();
    kubeconfig(dir.path(), &server(1), user);
    fs::write(dir.path().join("token"), "t2").unwrap();
    assert!(seen() == first, "same contents; the token file is read with each request");

    symlink("2.pem", dir.path().join("link")).unwrap();
    fs::rename(dir.path().join("link"), dir.path().join("current.pem")).unwrap();
    let second = seen();
    assert!(second != first, "another certificate");
    fs::write(dir.path().join("ca.crt"), format!("{}{}", authority.pem, Authority::new().pem)).unwrap();
    let third = seen();
    assert!(third != second, "another CA");
    kubeconfig(dir.path(), &server(2), user);
    assert!(seen() != third, "another server");
}

#[test]
fn cas_are_hashed_once_each_in_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (Authority::new(), Authority::new());
    // A section that is a certificate only by name is left out, as Go does.
    let odd = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    fs::write(dir.path().join("ca.crt"), [&other.pem, odd, &one.pem, &other.pem].concat()).unwrap();
    let file = kubeconfig(dir.path(), "server: \"https://h\", certificate-authority: ca.crt", "token: t");
    let expected = [&other, &one].map(|authority| crypto::sha256(&public_key(authority)));
    assert_eq!(explicit(&file).unwrap().cluster_ca_sha256(), expected);
}

#[test]
fn kubeconfigs_that_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, issued) = node();
    let server = cluster("https://h:6443", &authority);
    let in_dir = |name: &str| dir.path().join(name).display().to_string();
    let plugin =
        "exec: {apiVersion: client.authentication.k8s.io/v1, command: ./get, args: [a], env: [{name: N, value: v}]}";
    let named = "exec: {apiVersion: client.authentication.k8s.io/v1, command: aws, provideClusterInfo: true}";
    #[rustfmt::skip]
    let table = [
        // cluster                                        user                                    said of the user
        (server.clone(),                                  "token: s3cret".to_owned(),             format!("the token in {}", in_dir("kubeconfig"))),
        (server.clone(),                                  "tokenFile: token".to_owned(),          format!("the token in {}", in_dir("token"))),
        (server.clone(),                                  "tokenFile: /run/t, token: s3cret".to_owned(), "the token in /run/t".to_owned()),
        (server.clone(),                                  plugin.to_owned(),                      format!("the token of exec plugin {}", in_dir("./get"))),
        (server.clone(),                                  named.to_owned(),                       "the token of exec plugin aws".to_owned()),
        (server.clone(),                                  issued.user(),                          "CN=system:node:n1,O=system:nodes (client certificate)".to_owned()),
        (format!("{server}, tls-server-name: k.example"), "token: s3cret".to_owned(),             format!("the token in {}", in_dir("kubeconfig"))),
    ];
    for (cluster, user, said) in table {
        let loaded =
            explicit(&kubeconfig(dir.path(), &cluster, &user)).unwrap_or_else(|error| panic!("{user}: {error}"));
        assert_eq!(loaded.user(), said, "{user}");
        assert!(loaded.warnings().is_empty(), "{user}");
    }
    let Source::Exec(plugin) = explicit(&kubeconfig(dir.path(), &server, named)).unwrap().token else { panic!() };
    let info: serde_json::Value = serde_json::from_str(&plugin.info).unwrap();
    assert_eq!(info["apiVersion"], "client.authentication.k8s.io/v1");
    assert_eq!(info["kind"], "ExecCredential");
    assert_eq!(info["spec"]["interactive"], false);
    assert_eq!(info["spec"]["cluster"]["server"], "https://h:6443");
    let ca = info["spec"]["cluster"]["certificate-authority-data"].as_str().unwrap();
    assert_eq!(BASE64.decode(ca.as_bytes()).unwrap().trim_ascii(), authority.pem.as_bytes().trim_ascii());
}

#[test]
fn kubeconfigs_that_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, issued) = node();
    let server = cluster("https://h:6443", &authority);
    let other = authority.issue(&[], "system:node:n2", NOW);
    let at = |url: &str| cluster(url, &authority);
    let (certificate, key) = (BASE64.encode(issued.certificate.as_bytes()), BASE64.encode(issued.key.as_bytes()));
    let (other_key, text) = (BASE64.encode(other.key.as_bytes()), BASE64.encode(b"text"));
    let cut = BASE64.encode(&issued.key.as_bytes()[..100]);
    let encrypted =
        BASE64.encode(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
    // A PKCS#8 of Ed448, which TLS here does not know.
    let unknown = BASE64.encode(b"-----BEGIN PRIVATE KEY-----\nMEcCAQAwBQYDK2VxBDsEOQ==\n-----END PRIVATE KEY-----\n");
    let kubeconfig_file = dir.path().join("kubeconfig");
    #[rustfmt::skip]
    let table = [
        (at("http://h:8080"),                      "token: s3cret".into(), "its server is http://; Secrets and the node's credentials would travel in clear text"),
        (at("h:6443"),                             "token: s3cret".into(), "its cluster has no server of the form https://host:port"),
        (at(""),                                   "token: s3cret".into(), "its cluster has no server, or one that is no URL"),
        (at("https://me:s3cret@h"),                "token: s3cret".into(), "the server's URL has a user name in it, which is not supported"),
        (format!("{server}, proxy-url: 'http://p'"), "token: s3cret".into(), "proxy-url is not supported"),
        (format!("{server}, tls-server-name: 'a b'"), "token: s3cret".into(), "tls-server-name is neither a DNS name nor an address"),
        ("server: 'https://h', certificate-authority-data: '!'".into(), "token: s3cret".into(), "certificate-authority-data is no base64"),
        (format!("server: 'https://h', certificate-authority-data: {text}"), "token: s3cret".into(), "there is no CA certificate in it that can be used"),
        ("server: 'https://h', certificate-authority: gone".into(), "token: s3cret".into(), "it can't be opened (it is named in <K>)"),
        (server.clone(), String::new(),                    "its user has no client certificate, token, or exec plugin"),
        (server.clone(), "username: u, password: s3cret".into(), "username and password are not supported, nor are they by the API server"),
        (server.clone(), "token: s3cret, as: admin".into(), "impersonation (as) is not supported; name the node's own credentials"),
        (server.clone(), "auth-provider: {name: gcp}".into(), "auth-provider is not supported; use an exec plugin or a token file"),
        (server.clone(), "exec: {apiVersion: v1}".into(),  "its exec plugin has no command"),
        (server.clone(), "exec: {command: get}".into(),    "its exec plugin has no apiVersion"),
        (server.clone(), format!("client-certificate-data: {certificate}"), "its user has a client-certificate and no client-key"),
        (server.clone(), format!("client-key-data: {key}"), "its user has a client-key and no client-certificate"),
        (server.clone(), format!("client-certificate-data: {certificate}, client-key-data: {other_key}"), "the private key does not belong to the certificate in <K>"),
        (server.clone(), format!("client-certificate-data: {certificate}, client-key-data: {cut}"), "a PEM section of it is damaged or unfinished"),
        (server.clone(), format!("client-certificate-data: {certificate}, client-key-data: {certificate}"), "there is no private key in it; PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY in PEM is needed"),
        (server.clone(), format!("client-certificate-data: {certificate}, client-key-data: {encrypted}"), "the private key in it is encrypted; the node has to use it without anybody's help"),
        (server.clone(), format!("client-certificate-data: {certificate}, client-key-data: {unknown}"), "the private key is of a kind that TLS can't use here: ECDSA P-256 or P-384, Ed25519, or RSA of 2048 to 8192 bits is needed"),
        (server.clone(), format!("client-certificate-data: {key}, client-key-data: {key}"), "there is no certificate in it"),
        (server.clone(), "client-certificate: gone.pem, client-key: gone.pem".into(), "it can't be opened (it is named in <K>)"),
    ];
    for (cluster, user, expected) in table {
        let result = explicit(&kubeconfig(dir.path(), &cluster, &user));
        let shown = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
        assert_eq!(wrong(result), expected.replace("<K>", &kubeconfig_file.display().to_string()), "{cluster} {user}");
        assert!(!shown.contains("s3cret") && !shown.contains(&key[..40]), "{shown}");
    }
}

#[test]
fn half_written_kubeconfigs_are_bad_and_never_quoted() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let file = kubeconfig(dir.path(), &cluster("https://h", &authority), "token: s3cret");
    let whole = fs::read(&file).unwrap();
    for len in 0..whole.len() - 1 {
        fs::write(&file, &whole[..len]).unwrap();
        let Err(error) = explicit(&file) else { panic!("{len} of {} bytes were taken", whole.len()) };
        let said = error.to_string();
        assert!(matches!(error, CredentialsError::Bad { .. }), "{len}: {said}");
        assert!(said.contains(&file.display().to_string()) && !said.contains("s3cret"), "{len}: {said}");
    }
    #[rustfmt::skip]
    let table: [(&[u8], &str); 6] = [
        (b"",                                       "it is empty"),
        (b" \n",                                    "it is empty"),
        (b"\xff",                                   "it is not UTF-8"),
        (b"a: [s3cret",                             "it is no kubeconfig (line 1, column 4)"),
        (b"kind: Config",                           "it has no current-context (is it half-written?)"),
        (b"current-context: a",                     "its current-context is not among its contexts"),
    ];
    for (text, expected) in table {
        fs::write(&file, text).unwrap();
        assert_eq!(wrong(explicit(&file)), expected, "{}", String::from_utf8_lossy(text));
    }
}

#[test]
fn the_first_kubeconfig_that_is_there_is_taken() {
    let root = tempfile::tempdir().unwrap();
    let (authority, issued) = node();
    let looked = KUBELET_KUBECONFIGS.map(|below| root.path().join(below)).to_vec();
    let error = Credentials::load(&search(root.path())).err().unwrap();
    assert_eq!(error, CredentialsError::NotYet { looked: looked.clone() });
    assert!(error.to_string().starts_with("no kubeconfig yet; looked for /"), "{error}");
    // Absolute paths in it are those of the node, which has its root here.
    let pki = root.path().join("var/lib/kubelet/pki");
    fs::create_dir_all(&pki).unwrap();
    fs::write(pki.join("current.pem"), format!("{}{}", issued.certificate, issued.key)).unwrap();
    let current = "/var/lib/kubelet/pki/current.pem";
    for (at, place) in looked.iter().enumerate().rev() {
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        let user = format!("client-certificate: {current}, client-key: {current}");
        let written = kubeconfig(root.path(), &cluster(&format!("https://h:{}", at + 1), &authority), &user);
        fs::rename(written, place).unwrap();
        let loaded = Credentials::load(&search(root.path())).unwrap();
        assert_eq!(loaded.server(), format!("https://h:{}", at + 1));
        assert_eq!(loaded.files(), [place.clone(), pki.join("current.pem")]);
    }
    // One that is there and bad is not passed over: another one may be of another cluster.
    fs::write(&looked[0], "").unwrap();
    assert_eq!(wrong(Credentials::load(&search(root.path()))), "it is empty");
    let explicit = Place::Explicit(root.path().join("gone"));
    let looked = vec![root.path().join("gone")];
    assert_eq!(Credentials::load(&explicit).err().unwrap(), CredentialsError::NotYet { looked });
}

#[test]
fn a_pod_s_service_account() {
    let root = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let directory = root.path().join("account");
    fs::create_dir(&directory).unwrap();
    let place = |host: &str| Place::Search {
        root: root.path().to_owned(),
        in_cluster: Some(InCluster { host: host.into(), port: "443".into(), directory: directory.clone() }),
    };
    let Err(CredentialsError::NotYet { looked }) = Credentials::load(&place("10.0.0.1")) else { panic!() };
    assert_eq!(looked.last(), Some(&directory.join("token")));
    fs::write(directory.join("token"), "s3cret").unwrap();
    assert_eq!(wrong(Credentials::load(&place("10.0.0.1"))), "it can't be opened");
    fs::write(directory.join("ca.crt"), &authority.pem).unwrap();
    let loaded = Credentials::load(&place("10.0.0.1")).unwrap();
    assert_eq!(loaded.server(), "https://10.0.0.1:443");
    assert_eq!(loaded.user(), format!("the token in {}", directory.join("token").display()));
    assert_eq!((loaded.node_name(), loaded.client_validity()), (None, None));
    assert_eq!(loaded.cluster_ca_sha256().len(), 1);
    assert_eq!(loaded.files(), [directory.join("ca.crt"), directory.join("token")]);
    assert_eq!(Credentials::load(&place("fd00::1")).unwrap().server(), "https://[fd00::1]:443");
}

#[test]
fn what_works_and_should_be_known() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let insecure = "server: 'https://h', insecure-skip-tls-verify: true";
    let loaded = explicit(&kubeconfig(dir.path(), insecure, "token: t")).unwrap();
    assert!(loaded.cluster_ca_sha256().is_empty());
    assert!(loaded.warnings()[0].starts_with("insecure-skip-tls-verify in /"), "{:?}", loaded.warnings());
    // An expired certificate is for the API server to judge, and for a clock that is set.
    let expired = authority.issue(&[], "system:node:n1", PAST);
    let loaded = explicit(&kubeconfig(dir.path(), &cluster("https://h", &authority), &expired.user())).unwrap();
    assert_eq!(loaded.node_name(), Some("n1"));
    let admin = authority.issue(&[], "admin", NOW);
    let loaded = explicit(&kubeconfig(dir.path(), &cluster("https://h", &authority), &admin.user())).unwrap();
    assert_eq!(loaded.node_name(), None);
}
