//! The name of an image, normalised: what is one to the kubelet and the container runtime has to be one here.

const DOCKER_HUB: &str = "docker.io";
/// Where Docker Hub has the images whose names have one part only.
pub(super) const LIBRARY: &str = "library/";

/// An image's name, read as `distribution/reference` reads it (`ParseNormalizedNamed`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    registry: String,
    /// Without the registry, e.g. `library/nginx`.
    pub(super) path: String,
    tag: Option<String>,
    digest: Option<String>,
    /// Whether the registry is not named.
    pub(super) short: bool,
}

impl Reference {
    /// `None` for what the kubelet refuses as an `InvalidImageName`.
    pub(super) fn parse(image: &str) -> Option<Self> {
        // A bare image ID is no name.
        if is_hex(image, 64) {
            return None;
        }
        let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
        let named = |first: &str| {
            first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase())
        };
        let (registry, rest) = match name.split_once('/') {
            Some((first, rest)) if named(first) => (Some(first), rest),
            Some(_) | None => (None, name),
        };
        // A colon before the first slash belongs to the registry's port.
        let (path, tag) = rest.split_once(':').map_or((rest, None), |(path, tag)| (path, Some(tag)));
        let fine = path.split('/').all(is_path_component)
            && registry.is_none_or(is_registry)
            && tag.is_none_or(is_tag)
            && digest.is_none_or(is_digest);
        if !fine {
            return None;
        }
        let short = registry.is_none();
        let registry = match registry {
            // Its old name.
            None | Some("index.docker.io") => DOCKER_HUB,
            Some(registry) => registry,
        };
        let path =
            if registry == DOCKER_HUB && !path.contains('/') { format!("{LIBRARY}{path}") } else { path.to_owned() };
        // The kubelet adds the default tag where there is neither (`applyDefaultImageTag`).
        let tag = tag.or_else(|| digest.is_none().then_some("latest")).map(str::to_owned);
        let parsed = Self { registry: registry.to_owned(), path, tag, digest: digest.map(str::to_owned), short };
        (parsed.name().len() <= 255).then_some(parsed)
    }

    /// Registry and path: the key of the kubelet's records.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.registry, self.path)
    }

    /// `@digest`, or else `:tag`: beside a digest the tag says nothing (containerd's `ParseDockerRef`).
    pub(super) fn version(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => format!("@{digest}"),
            (None, tag) => format!(":{}", tag.as_deref().unwrap_or("latest")),
        }
    }

    /// Under this the kubelet asks the runtime for it.
    pub(super) fn exact(&self) -> String {
        self.name() + &self.version()
    }

    /// `sha256:<64 hex digits>` reads as a name with a tag, and runtimes take it for an image's ID.
    pub(super) fn id(&self) -> Option<&str> {
        let tag = self.tag.as_deref().filter(|tag| is_hex(tag, 64))?;
        (self.short && self.path == "library/sha256" && self.digest.is_none()).then_some(tag)
    }
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Lower-case letters and digits, with separators between them.
fn is_path_component(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = |b: Option<u8>| b.is_some_and(plain);
    ends(text.bytes().next()) && ends(text.bytes().last()) && text.bytes().all(|b| plain(b) || b"._-".contains(&b))
}

fn is_registry(text: &str) -> bool {
    text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'[')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b))
}

fn is_tag(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

fn is_digest(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, hex)| {
        algorithm.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
            && algorithm.bytes().all(|b| b.is_ascii_alphanumeric() || b"+._-".contains(&b))
            && hex.len() >= 32
            && hex.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `{a}` stands for the digest of 64 a's, `{A}` for the 64 a's alone.
    fn spelt(text: &str) -> String {
        let all = "a".repeat(64);
        text.replace("{a}", &format!("sha256:{all}")).replace("{A}", &all)
    }

    #[test]
    fn names_of_images_are_normalised() {
        #[rustfmt::skip]
        let rows = [
            // as a pod spells it                      key of the kubelet's records         name as it is looked for
            ("nginx",                               Some(("docker.io/library/nginx",      "docker.io/library/nginx:latest"))),
            ("nginx:1.27",                          Some(("docker.io/library/nginx",      "docker.io/library/nginx:1.27"))),
            ("nginx:latest",                        Some(("docker.io/library/nginx",      "docker.io/library/nginx:latest"))),
            ("library/nginx",                       Some(("docker.io/library/nginx",      "docker.io/library/nginx:latest"))),
            ("docker.io/nginx",                     Some(("docker.io/library/nginx",      "docker.io/library/nginx:latest"))),
            ("docker.io/library/nginx:1.27",        Some(("docker.io/library/nginx",      "docker.io/library/nginx:1.27"))),
            ("index.docker.io/nginx:1.27",          Some(("docker.io/library/nginx",      "docker.io/library/nginx:1.27"))),
            ("index.docker.io/a/b",                 Some(("docker.io/a/b",                "docker.io/a/b:latest"))),
            ("a/b",                                 Some(("docker.io/a/b",                "docker.io/a/b:latest"))),
            ("a/b/c:1",                             Some(("docker.io/a/b/c",              "docker.io/a/b/c:1"))),
            ("docker.io/a/b",                       Some(("docker.io/a/b",                "docker.io/a/b:latest"))),
            ("registry/b",                          Some(("docker.io/registry/b",         "docker.io/registry/b:latest"))),
            ("localhost/b",                         Some(("localhost/b",                  "localhost/b:latest"))),
            ("localhost:5000/b:1",                  Some(("localhost:5000/b",             "localhost:5000/b:1"))),
            ("registry:5000/b",                     Some(("registry:5000/b",              "registry:5000/b:latest"))),
            ("registry:5000/b:1",                   Some(("registry:5000/b",              "registry:5000/b:1"))),
            ("registry:5000/a/b",                   Some(("registry:5000/a/b",            "registry:5000/a/b:latest"))),
            // A tag, not a port: nothing follows it.
            ("registry:5000",                       Some(("docker.io/library/registry",   "docker.io/library/registry:5000"))),
            ("ghcr.io/a/b:v1",                      Some(("ghcr.io/a/b",                  "ghcr.io/a/b:v1"))),
            ("10.0.0.1/b",                          Some(("10.0.0.1/b",                   "10.0.0.1/b:latest"))),
            ("[fd00::1]:5000/b:1",                  Some(("[fd00::1]:5000/b",             "[fd00::1]:5000/b:1"))),
            ("Registry/b",                          Some(("Registry/b",                   "Registry/b:latest"))),
            ("quay.io/a_b/c__d/e-f/g.h:V_1.2-3",    Some(("quay.io/a_b/c__d/e-f/g.h",     "quay.io/a_b/c__d/e-f/g.h:V_1.2-3"))),
            ("nginx@{a}",                           Some(("docker.io/library/nginx",      "docker.io/library/nginx@{a}"))),
            ("nginx:1.27@{a}",                      Some(("docker.io/library/nginx",      "docker.io/library/nginx@{a}"))),
            ("registry:5000/b@{a}",                 Some(("registry:5000/b",              "registry:5000/b@{a}"))),
            ("registry:5000/b:1@{a}",               Some(("registry:5000/b",              "registry:5000/b@{a}"))),
            // An ID reads as a name with a tag.
            ("{a}",                                 Some(("docker.io/library/sha256",     "docker.io/library/sha256:{A}"))),
            // What the kubelet calls an InvalidImageName.
            ("",                                    None),
            ("{A}",                                 None),
            ("Nginx",                               None),
            ("a/B",                                 None),
            ("a//b",                                None),
            ("/b",                                  None),
            ("b/",                                  None),
            ("-b",                                  None),
            ("b.",                                  None),
            ("b:",                                  None),
            ("b:.1",                                None),
            ("b:1:2",                               None),
            ("b:1/c",                               Some(("b:1/c",                        "b:1/c:latest"))),
            ("b@",                                  None),
            ("b@sha256:00",                         None),
            ("b@{a}@{a}",                           None),
            (" b",                                  None),
            ("b c",                                 None),
            ("b\n",                                 None),
            ("https://ghcr.io/b",                   None),
        ];
        for (image, want) in rows {
            let parsed = Reference::parse(&spelt(image)).map(|parsed| (parsed.name(), parsed.exact()));
            assert_eq!(parsed, want.map(|(name, exact)| (name.to_owned(), spelt(exact))), "{image:?}");
        }
        assert!(Reference::parse(&format!("b:{}", "1".repeat(128))).is_some());
        assert!(Reference::parse(&format!("b:{}", "1".repeat(129))).is_none());
        assert!(Reference::parse(&format!("a.b/{}", "c".repeat(251))).is_some());
        assert!(Reference::parse(&format!("a.b/{}", "c".repeat(252))).is_none());
    }
}
